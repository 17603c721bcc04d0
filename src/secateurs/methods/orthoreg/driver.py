"""The driver of OrthoReg: epochs with the orthonormality penalty, then a cut of the whole network, in rounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from typing_extensions import override

from secateurs.allocate import AsIs, Ranked
from secateurs.methods.orthoreg.importance import Importance, first_order, mask_distance
from secateurs.methods.orthoreg.orthogonality import Layer, add_gram_gradient, layer_weights, orthogonality
from secateurs.session.method import Driver, State
from secateurs.session.run import Run
from secateurs.session.scope import too_short

if TYPE_CHECKING:
    from secateurs.methods.orthoreg.method import OrthoReg

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class OrthoRegDriver(Driver):
    """Rounds of: orthonormal epochs, cut, retrain; the last retraining lasts until the loop ends."""

    def __init__(self, run: Run, options: OrthoReg) -> None:
        self._run, self._how = run, options
        needed = options.epochs * run.clock.steps_per_epoch
        if needed > run.clock.total:
            raise too_short(
                "OrthoReg", needed, run.clock.total, f"its {options.rounds.n} rounds take {options.epochs} epochs"
            )
        self._importance = Importance(options.reduction, options.samples)
        self._importance.check(run)
        self._allocate(0, {group.name: torch.zeros(group.units, dtype=torch.float64) for group in run.graph.groups})
        self._round = 0
        self._ortho_from = 0
        self._masks: list[Tensor] = []
        self._decays: list[list[float]] | None = None
        self._layers: list[tuple[Tensor, nn.Parameter | None]] = []
        self._weights: tuple[float, ...] = ()
        self._find_layers()

    # --- what a session asks ---

    @property
    @override
    def phase(self) -> str:
        if self._round == self._how.rounds.n:
            return "done"
        return "orthonormal" if self._run.step >= self._ortho_from else "retraining"

    @property
    @override
    def ready(self) -> bool:
        return self._round == self._how.rounds.n

    @override
    def attached(self) -> None:
        pass

    @override
    def gradients_ready(self) -> None:
        ortho = self.phase == "orthonormal"
        self._weight_decay(off=ortho and self._how.without_decay)
        if ortho and self._run.step % self._how.every == 0:
            layers, shares = self._with_gradients()
            add_gram_gradient(layers, shares, strength=self._how.strength * self._how.every, norm=self._how.norm)

    @override
    def stepped(self) -> None:
        clock, step = self._run.clock, self._run.step
        if self._round == self._how.rounds.n or step <= self._ortho_from or not clock.ends_epoch(step):
            return
        over = step >= self._ortho_from + self._how.ortho_epochs * clock.steps_per_epoch
        drawn = self._how.ticket is not None and self._settled()
        if over or drawn:
            self._cut("the penalised epochs are over" if over else "the early-bird ticket has settled")

    @override
    def conclude(self, *, early: bool) -> None:
        while early and self._round < self._how.rounds.n:
            self._cut("finished early")
        self._weight_decay(off=False)

    @override
    def missing(self) -> str | None:
        if self.ready:
            return None
        return f"{self._round} of {self._how.rounds.n} rounds are done; {self._how.epochs} epochs reach the last cut"

    @override
    def compacted(self, keep: Mapping[str, NDArray[Any]]) -> None:
        self._find_layers()

    @override
    def state(self) -> State:
        return {
            "round": self._round,
            "ortho_from": self._ortho_from,
            "masks": list(self._masks),
            "decays": None if self._decays is None else [list(row) for row in self._decays],
        }

    @override
    def restore(self, state: State) -> None:
        self._round, self._ortho_from = state["round"], state["ortho_from"]
        self._masks, self._decays = list(state["masks"]), state["decays"]

    @override
    def close(self) -> None:
        self._weight_decay(off=False)

    # --- the penalty ---

    def _find_layers(self) -> None:
        found = [m for m in self._run.model.modules() if isinstance(m, _CONVS) and isinstance(m.weight, nn.Parameter)]
        self._layers = [(m.weight, m.bias if isinstance(m.bias, nn.Parameter) else None) for m in found]
        shapes = [(w.shape[0], w[0].numel() + int(b is not None)) for w, b in self._layers]
        self._weights = layer_weights(shapes, by=self._how.weighting) if shapes else ()

    def _with_gradients(self) -> tuple[list[Layer], list[float]]:
        layers, shares = list[Layer](), list[float]()
        for (weight, bias), share in zip(self._layers, self._weights, strict=True):
            if weight.grad is not None:
                both = bias is not None and bias.grad is not None
                layers.append(
                    Layer(
                        weight.detach(), weight.grad, *((bias.detach(), bias.grad) if bias is not None and both else ())
                    )
                )
                shares.append(share)
        return layers, shares

    def _weight_decay(self, *, off: bool) -> None:
        """Weight decay is zero while the penalty acts, and what it was afterwards."""
        if off and self._decays is None:
            self._decays = [[float(g.get("weight_decay", 0.0)) for g in o.param_groups] for o in self._run.optimizers]
        if self._decays is None:
            return
        for optimizer, decays in zip(self._run.optimizers, self._decays, strict=True):
            for group, decay in zip(optimizer.param_groups, decays, strict=True):
                if "weight_decay" in group:
                    group["weight_decay"] = 0.0 if off else decay
        if not off:
            self._decays = None

    # --- cuts ---

    def _cut(self, why: str) -> None:
        run = self._run
        degree = [orthogonality(weight.flatten(1)) for weight, _ in self._layers]
        keep = self._allocate(self._round, self._scores())
        self._round += 1
        note = f"round {self._round} of {self._how.rounds.n}: {why}; degree of orthogonality {np.mean(degree):.2f}"
        run.remove({name: np.setdiff1d(np.flatnonzero(run.alive[name]), units) for name, units in keep.items()}, note)
        self._masks.clear()
        self._ortho_from = run.step + self._how.retrain_epochs * run.clock.steps_per_epoch
        if run.shrinks:
            run.compact()

    def _scores(self) -> dict[str, Tensor]:
        """First-order importance of every living unit, by group, over the network without the dead."""
        gradients = self._importance.gradients(self._run)
        return {g.name: first_order(g, self._run.parameters, gradients) for g in self._run.graph.groups}

    def _allocate(self, at: int, scores: Mapping[str, Tensor]) -> dict[str, NDArray[np.int64]]:
        """The units (present numbers) that stay after round `at`, ranked over the whole network as they are."""
        run = self._run
        living = {name: np.flatnonzero(alive) for name, alive in run.alive.items()}
        left = run.graph.shrink(living)
        budget = replace(run.budget, **self._budget_of(at), min_keep_fraction=0.0)
        raised = {name: self._floored(name, scores[name][torch.from_numpy(units)]) for name, units in living.items()}
        keep = Ranked(AsIs())(raised, left, budget)
        return {name: living[name][units] for name, units in keep.items()}

    def _floored(self, name: str, scores: Tensor) -> Tensor:
        """Raise the best few units above all others: at least a share of the original units stays."""
        floor = replace(self._run.budget, min_keep_fraction=max(self._how.floor, self._run.budget.min_keep_fraction))
        best = floor.floor(self._run.origin.group(name).units)
        raised = scores.clone()
        top = scores.argsort(descending=True, stable=True)[:best]
        raised[top] += 1e6 * (1.0 + float(scores.abs().max()))
        return raised

    def _budget_of(self, at: int) -> dict[str, int]:
        """The budget after round `at`: the rounds' shares of what the whole budget removes."""
        run = self._run
        dense, found = run.origin.cost(), dict[str, int]()
        for i, (name, full) in enumerate(vars(dense).items()):
            goal = min(int(run.targets[i]), full)
            if getattr(run.budget, name) is not None:
                fractions = self._how.rounds.of(1.0 - goal / full) if goal < full else (0.0,) * self._how.rounds.n
                left = float(np.prod([1.0 - r for r in fractions[: at + 1]]))
                found[name] = goal if at + 1 == len(fractions) else max(2, int(left * full))
        return found

    def _settled(self) -> bool:
        """The original early-bird test: the newest mask is near every one of the few before it."""
        ticket = self._how.ticket
        if ticket is None:
            return False
        keep = self._allocate(self._round, ticket.scores(self._run))
        mask = torch.cat(
            [torch.isin(torch.arange(g.units), torch.as_tensor(keep[g.name])) for g in self._run.graph.groups]
        )
        self._masks = [*self._masks, mask][-ticket.window :]
        return len(self._masks) == ticket.window and all(
            mask_distance(mask, other) <= ticket.distance for other in self._masks[:-1]
        )
