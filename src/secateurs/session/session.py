"""The session: a training-time method inside somebody else's training loop."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from secateurs.allocate import Budget
from secateurs.errors import InputError, SessionError
from secateurs.graph import Cost, Graph, trace
from secateurs.network import Network
from secateurs.session.checkpoint import load_state, save_state
from secateurs.session.checks import (
    all_finite,
    check_method,
    check_optimizer,
    drop_step,
    gradients,
    neutralise,
    unwrapped,
)
from secateurs.session.history import History
from secateurs.session.method import Driver, TrainingMethod
from secateurs.session.run import Run
from secateurs.session.schedule import Clock
from secateurs.surgery import Plan
from secateurs.types import Loss

_SESSIONS: weakref.WeakKeyDictionary[Optimizer, Session] = weakref.WeakKeyDictionary()


class Session:
    """Prunes a model while it is trained by any loop that calls `optimizer.step()`.

    session = Session(model, GReg1(), Budget(macs=0.5), example_inputs, steps_per_epoch=len(loader), epochs=20)
    session.attach(optimizer)      # the only line that the loop needs
    ...                            # train
    small = session.finish()

    Penalties are added in the optimizer's step hooks, when gradient clipping, AMP's unscaling and DDP's all-reduce
    have happened. With one process, methods that shrink as they go cut parameters, moments and `ema` copies in
    place; under DDP or with `shrink=False` removed units are masked, and cut by `finish`.

    budget: what remains; None where the method itself says how much goes (explicit rates) or decides (Adaptive
    Pruning). data, loss: batches and a function of (outputs, targets), for methods that measure importance
    themselves (OrthoReg) or probe (Adaptive Pruning). Every schedule is a function of the step: `steps_per_epoch`
    and `epochs` are of the optimizer's steps, after gradient accumulation.
    """

    def __init__(  # noqa: PLR0913
        self,
        model: nn.Module,
        method: TrainingMethod,
        budget: Budget | None,
        example_inputs: Any,
        *,
        steps_per_epoch: int,
        epochs: int,
        data: Iterable[Any] | None = None,
        loss: Loss | None = None,
        shrink: bool | None = None,
        protect: tuple[str, ...] = (),
        seed: int = 0,
    ) -> None:
        check_method(method)
        if budget is not None and not isinstance(budget, Budget):
            raise InputError(
                f"budget is {budget!r}. What remains is said by a Budget. Write secateurs.Budget(macs=0.5) for half of "
                "the multiply-accumulates, or None where the method decides."
            )
        clock = Clock(steps_per_epoch, epochs)
        parallel = isinstance(model, nn.parallel.DistributedDataParallel)
        network = Network.of(model)
        inner = network.model
        self.method = method
        asked = Budget(params=1.0) if budget is None else budget
        self._run = Run(inner, trace(network, example_inputs, protect=protect), asked, clock)
        self._run.example, self._run.data, self._run.loss, self._run.seed = example_inputs, data, loss, seed
        self._run.bound = budget is not None
        self._run.shrinks = (not parallel and self._run.ranks.size == 1) if shrink is None else shrink
        self._driver: Driver = method.start(self._run)
        self._run.compacted = self._driver.compacted
        self._identities = {name: id(p) for name, p in self._run.parameters.items()}
        self._handles: list[Any] = []
        self._skipped = 0
        self._skipped_on_device: torch.Tensor | None = None
        self._finished = False

    def __repr__(self) -> str:
        """One line: method, position, phase."""
        run = self._run
        return f"Session({type(self.method).__name__}, step {run.step} of {run.clock.total}, {self._driver.phase})"

    # --- reading ---

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
        """What the method is doing now, in one word."""
        return self._driver.phase

    @property
    def history(self) -> History:
        """What was pruned when, and why."""
        return self._run.history

    @property
    def plan(self) -> Plan:
        """What is kept, up to now, of the network that the session began with."""
        return self._run.plan

    @property
    def cost(self) -> Cost:
        """Cost of the network without the units removed up to now."""
        return self._run.cost()

    @property
    def masks(self) -> dict[str, torch.Tensor]:
        """Entries held at zero by methods that prune columns or single weights, by tensor name."""
        return self._run.masks

    @property
    def ready(self) -> bool:
        """Whether the model at this step is the pruned one: choose the best checkpoint among these only."""
        return self._driver.ready

    @property
    def finished(self) -> bool:
        """Whether `finish` was called, so that the model is the pruned one and the session is over."""
        return self._finished

    @property
    def skipped(self) -> int:
        """Optimizer steps that were dropped because a gradient was not finite."""
        return self._skipped + (0 if self._skipped_on_device is None else int(self._skipped_on_device))

    # --- doing ---

    def attach(self, optimizer: Optimizer, *more: Optimizer, ema: nn.Module | Iterable[nn.Module] = ()) -> Session:
        """Follow an optimizer's steps; the model trains in the loop as before.

        more: further optimizers of the same model (the first one counts the steps). ema: averaged copies of the
        model, cut along with it when it shrinks. Attach before `torch.compile` traces the model.
        """
        inner = [unwrapped(one) for one in (optimizer, *more)]
        if self._finished:
            raise SessionError("the session is finished. It prunes one model once. Start a new Session for this model.")
        if self._handles:
            raise SessionError("the session is attached already. Its hooks would run twice a step. Call attach once.")
        if self._identities != {name: id(p) for name, p in self._run.parameters.items()}:
            raise SessionError(
                "the model's parameters are other objects than when the session was made (FSDP shards them so). "
                "The session would prune what no longer trains. Use DistributedDataParallel, or make the session "
                "last."
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
            hooks = _StepHooks(self, counts=at == 0)
            self._handles += [one.register_step_pre_hook(hooks.before), one.register_step_post_hook(hooks.after)]
            _SESSIONS[one] = self
        run.optimizers = tuple(inner)
        run.followers = tuple(Network.of(m).model for m in ([ema] if isinstance(ema, nn.Module) else ema))
        run.rebuild()
        self._driver.attached()
        return self

    def detach(self) -> None:
        """Let go of model and optimizer: no hook and no tap stays; what is pruned stays pruned."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        for one in self._run.optimizers:
            _SESSIONS.pop(one, None)
        self._driver.close()

    def finish(self, *, early: bool = False) -> nn.Module:
        """Do what is due, take removed units out, let go of model and optimizer, and return the pruned model.

        A run that is not complete is refused with what is missing, and goes on; `early` decides what is undecided
        from the present scores instead.
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
                f"after {run.step} of {run.clock.total} steps the network is not pruned: {lacking}. The session "
                f"goes on. "
                "Train on, or call finish(early=True) to decide from the present scores."
            )
        run.compact()
        self.detach()
        self._finished = True
        return run.model

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on, as tensors and plain values."""
        return {**save_state(self._run, self._driver, self.method), "skipped": self.skipped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue a run that was saved: cut this model to the saved widths, then restore the method's state.

        Call it before the model's and the optimizer's own `load_state_dict`, which then find the saved shapes.
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
                return
        else:
            # Waiting for the device at every step would cost more than a step that only momentum moves.
            neutralise(grads, fine)
            lost = (~fine).long()
            self._skipped_on_device = lost if self._skipped_on_device is None else self._skipped_on_device + lost
        self._driver.gradients_ready()

    def _after(self) -> None:
        self._run.step += 1
        self._run.silence()
        self._driver.stepped()


class _StepHooks:
    """An optimizer's hooks; a closure (Lightning, LBFGS) computes gradients inside the step, so it is wrapped."""

    def __init__(self, session: Session, *, counts: bool) -> None:
        self._session, self._counts = session, counts

    def before(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        closure = kwargs.get("closure") or next((a for a in args[1:] if callable(a)), None)
        if closure is None:
            self._session._before(optimizer)  # noqa: SLF001
            return None

        def closed() -> Any:
            value = closure()
            self._session._before(optimizer)  # noqa: SLF001
            return value

        return tuple(closed if a is closure else a for a in args), _with(kwargs, closure, closed)

    def after(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._counts:
            self._session._after()  # noqa: SLF001


def _with(kwargs: dict[str, Any], closure: Callable[[], Any], closed: Callable[[], Any]) -> dict[str, Any]:
    return {key: closed if value is closure else value for key, value in kwargs.items()}


def _written(run: Run) -> list[str]:
    return [piece.tensor for group in run.graph.groups for piece in group.slices]
