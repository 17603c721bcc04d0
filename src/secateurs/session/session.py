"""`Session`: run a method that prunes during training inside any training loop."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from secateurs.allocate import Budget
from secateurs.errors import InputError, ScheduleError, SessionError
from secateurs.graph import Cost, Graph, trace
from secateurs.network import Network
from secateurs.notebook import html_table
from secateurs.running.batches import check_loss
from secateurs.session.checkpoint import load_state, save_state
from secateurs.session.checks import changes, check_budget, check_data, check_optimizer, named_method, unwrapped
from secateurs.session.history import History
from secateurs.session.method import Driver, TrainingMethod
from secateurs.session.processes import Ranks
from secateurs.session.run import Run
from secateurs.session.schedule import Clock
from secateurs.session.step_hooks import StepHooks, all_finite, drop_step, gradients, neutralise
from secateurs.surgery import Plan
from secateurs.types import Loss

_SESSIONS: weakref.WeakKeyDictionary[Optimizer, Session] = weakref.WeakKeyDictionary()


class Session:
    """Prunes a model while it is trained by any loop that calls `optimizer.step()`.

    session = Session(model, example_inputs, method="greg1", budget=Budget(macs=0.5), steps_per_epoch=100, epochs=20)
    session.attach(optimizer)      # the only line that the loop needs
    ...                            # train
    small = session.finish()

    Penalties are added in the optimizer's step hooks, when gradient clipping, AMP's unscaling and DDP's all-reduce
    have happened. With one process, methods that remove units during training shrink parameters, moments and `ema`
    copies in place; under DDP or with shrink=False, removed units are masked until `finish`.

    model: the network in training, or its DDP wrapper. example_inputs: as for `trace`. method: a method or its name.
    budget: what remains; None if the method decides how much is removed (explicit rates, Adaptive Pruning).
    steps_per_epoch, epochs: length of the run in optimizer steps, after gradient accumulation; every schedule is a
    function of the step. data, loss: batches, and a function of (outputs, targets), for methods that measure importance
    (OrthoReg, Adaptive Pruning). shrink: False masks removed units until `finish`. protect: names of modules whose
    channels stay. seed: of random choices. strict: refuse a schedule that is longer than the run, instead of fitting it
    (`method.fitted`) and noting so in `note`.

    Raises ModelError or TraceError for a model that cannot be traced, RecipeError for an unknown method, BudgetError
    for a budget that cannot be reached, ScheduleError with strict, InputError for other wrong arguments.
    """

    def __init__(  # noqa: PLR0913
        self,
        model: nn.Module,
        example_inputs: Any,
        *,
        method: TrainingMethod | str,
        budget: Budget | None = None,
        steps_per_epoch: int,
        epochs: int,
        data: Iterable[Any] | None = None,
        loss: Loss | None = None,
        shrink: bool | None = None,
        protect: tuple[str, ...] = (),
        seed: int = 0,
        strict: bool = False,
    ) -> None:
        asked = named_method(method, seed)
        parallel = isinstance(model, nn.parallel.DistributedDataParallel) or Ranks().size > 1
        network = Network.of(model).with_values
        self._run = Run(
            budget=check_budget(budget),
            clock=Clock(steps_per_epoch, epochs),
            data=check_data(data),
            loss=check_loss(loss),
            model=network.model,
            graph=trace(network, example_inputs, protect=protect),
            example=example_inputs,
            shrinks=not parallel if shrink is None else shrink,
            seed=seed,
        )
        self.note = ""
        """The change that fitted the method's schedule to the run, in a sentence; empty if none was needed."""
        self.method, self._driver = self._start(asked, strict=strict)
        self._identities = {name: id(p) for name, p in self._run.parameters.items()}
        self._handles: list[Any] = []
        self._skipped = 0
        self._skipped_on_device: torch.Tensor | None = None
        self._finished = False

    def _start(self, method: TrainingMethod, *, strict: bool) -> tuple[TrainingMethod, Driver]:
        """Start the method's driver; a schedule that is longer than the run is scaled to it, unless strict."""
        run = self._run
        try:
            return method, method.start(run)
        except ScheduleError:
            fitted = method.fitted(run.clock.steps_per_epoch, run.clock.epochs)
            if strict or fitted == method:
                raise
        self.note = f"schedule fitted to {run.clock.total} steps: {changes(method, fitted)}"
        run.note("schedule", f"{type(method).__name__}'s {self.note}")
        return fitted, fitted.start(run)

    def __repr__(self) -> str:
        """One line: method, position, phase, and the change of the schedule."""
        run, note = self._run, f"; {self.note}" if self.note else ""
        return (
            f"Session({type(self.method).__name__}, step {run.step} of {run.clock.total}, {self._driver.phase}{note})"
        )

    def _repr_html_(self) -> str:
        """Progress of the session as a table, for notebooks."""
        run, cost = self._run, self.cost
        rows = [
            ("step", f"{run.step:,} of {run.clock.total:,}"),
            ("phase", self.phase),
            ("budget", repr(run.budget)),
            ("MACs now", f"{cost.macs:,}"),
            ("parameters now", f"{cost.params:,}"),
        ]
        return html_table(f"Session({type(self.method).__name__})", ("", ""), rows, [self.note] if self.note else [])

    # --- state ---

    @property
    def model(self) -> nn.Module:
        """The model, without its wrapper."""
        return self._run.model

    @property
    def graph(self) -> Graph:
        """The graph of the network as it is now."""
        return self._run.graph

    @property
    def step(self) -> int:
        """Optimizer steps so far."""
        return self._run.step

    @property
    def phase(self) -> str:
        """Name of the method's present phase."""
        return self._driver.phase

    @property
    def history(self) -> History:
        """The events of the run: the step, what was pruned, and the reason."""
        return self._run.history

    @property
    def plan(self) -> Plan:
        """Plan from the network that the session began with to the present one."""
        return self._run.plan

    @property
    def cost(self) -> Cost:
        """Cost of the network without the units removed up to now."""
        return self._run.cost()

    @property
    def masks(self) -> dict[str, torch.Tensor]:
        """Tensor name -> mask of entries kept, of methods that prune columns or single weights."""
        return self._run.masks

    @property
    def ready(self) -> bool:
        """True if the model at this step is the pruned one: choose the best checkpoint among these only."""
        return self._driver.ready

    @property
    def finished(self) -> bool:
        """True if `finish` was called, so that the model is the pruned one and the session is over."""
        return self._finished

    @property
    def skipped(self) -> int:
        """Optimizer steps that were dropped because a gradient was not finite."""
        return self._skipped + (0 if self._skipped_on_device is None else int(self._skipped_on_device))

    # --- actions ---

    def attach(self, optimizer: Optimizer, *more: Optimizer, ema: nn.Module | Iterable[nn.Module] = ()) -> Session:
        """Register the session's hooks on an optimizer, and return the session; the loop stays as it is.

        more: further optimizers of the same model (the first one counts the steps). ema: averaged copies of the
        model, which shrink with it. Call it before `torch.compile` traces the model. Raises SessionError if attached
        already, InputError for an optimizer without the model's parameters.
        """
        inner = [unwrapped(one) for one in (optimizer, *more)]
        if self._finished:
            raise SessionError("the session is finished. It prunes one model once. Start a new Session for this model.")
        if self._handles:
            raise SessionError("the session is attached already. Its hooks would run twice a step. Call attach once.")
        if self._identities != {name: id(p) for name, p in self._run.parameters.items()}:
            raise SessionError(
                "the model's parameters are other objects than when the session was made (FSDP shards them so). "
                "The session would prune what no longer trains. Use DistributedDataParallel, or make the session last."
            )
        for one in inner:
            if one in _SESSIONS:
                raise InputError(
                    f"another session is attached to this {type(one).__name__}: {_SESSIONS[one]!r}. Two would prune "
                    "against each other. Finish or detach that one first."
                )
        run = self._run
        for at, one in enumerate(inner):
            check_optimizer(one, run.model, _written(run) if len(inner) == 1 else ())
            self._handles += StepHooks(self._before, self._after if at == 0 else None).register(one)
            _SESSIONS[one] = self
        run.optimizers = tuple(inner)
        run.followers = tuple(Network.of(m).model for m in ([ema] if isinstance(ema, nn.Module) else ema))
        run.rebuild()
        self._driver.attached()
        return self

    def detach(self) -> None:
        """Remove all hooks from the model and the optimizer; removed units stay removed."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        for one in self._run.optimizers:
            _SESSIONS.pop(one, None)
        self._driver.close()

    def finish(self, *, early: bool = False) -> nn.Module:
        """Complete the pruning, remove units from the tensors, remove all hooks, and return the pruned model.

        early: decide open choices by the present scores. Otherwise a run that is not complete raises SessionError with
        the missing steps, and can continue.
        """
        run = self._run
        if self._finished:
            raise SessionError("the session is finished already. Its result is session.model, its plan session.plan.")
        if run.step == 0:
            raise SessionError(
                "optimizer.step() was never called since attach, so nothing was learnt or pruned. "
                "Attach the optimizer that the loop steps, and train."
            )
        self._driver.conclude(early=early)
        lacking = self._driver.missing()
        if lacking is not None:
            raise SessionError(
                f"after {run.step} of {run.clock.total} steps the network is not pruned: {lacking}. The session goes "
                "on. Train on, or call finish(early=True) to decide from the present scores."
            )
        self._driver.shrink()
        self.detach()
        self._finished = True
        return run.model

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the run as tensors and plain values."""
        return {**save_state(self._run, self._driver, self.method), "skipped": self.skipped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue a saved run: prune this model to the saved widths, then restore the method's state.

        Call it before the model's and the optimizer's own `load_state_dict`, whose shapes then match. Raises InputError
        for a state of another session.
        """
        load_state(self._run, self._driver, self.method, state)
        self._skipped, self._skipped_on_device = int(state["skipped"]), None

    # --- around a step ---

    def _before(self, optimizer: Optimizer) -> None:
        grads = gradients(optimizer)
        fine = all_finite(grads)
        if fine.device.type == "cpu":
            if not fine:
                self._skipped += 1
                self._run.note("skipped", "a gradient was not finite; the step was dropped")
                drop_step(optimizer)
        else:
            # A device synchronisation at every step would cost more than a step by momentum alone.
            neutralise(grads, fine)
            lost = (~fine).long()
            self._skipped_on_device = lost if self._skipped_on_device is None else self._skipped_on_device + lost
        self._driver.gradients_ready()

    def _after(self) -> None:
        self._run.step += 1
        self._run.silence()
        self._driver.stepped()


def _written(run: Run) -> list[str]:
    return [piece.tensor for group in run.graph.groups for piece in group.slices]
