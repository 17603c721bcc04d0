"""The driver of OrthoReg: epochs with the orthonormality penalty, then a cut of the whole network, in rounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from typing_extensions import override

from secateurs.allocate import AsIs, Ranked
from secateurs.methods.orthoreg.importance import Importance, first_order, mask_distance
from secateurs.methods.orthoreg.orthogonality import Orthonormal, orthogonality
from secateurs.methods.orthoreg.rounds import left_after
from secateurs.session.choose import budget_so_far, surplus
from secateurs.session.flat_units import Rows
from secateurs.session.method import Driver
from secateurs.session.penalty import Applied
from secateurs.session.run import Run
from secateurs.session.scope import Units, needed_budget, too_short

if TYPE_CHECKING:
    from secateurs.methods.orthoreg.method import OrthoReg

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class OrthoRegDriver(Driver):
    """Rounds of penalised epochs, a cut and retraining; the last retraining lasts until the loop ends."""

    saved: ClassVar[tuple[str, ...]] = ("_round", "_ortho_from", "_masks", "_decays")

    def __init__(self, run: Run, options: OrthoReg) -> None:
        super().__init__(run)
        self._how = options
        needed = options.epochs * run.clock.steps_per_epoch
        if needed > run.clock.total:
            why = f"its {options.rounds} rounds take {options.epochs} epochs"
            raise too_short("OrthoReg", needed, run.clock.total, why)
        self._importance = Importance(options.reduction, options.samples)
        self._importance.check(run)
        level = {group.name: torch.zeros(group.units, dtype=torch.float64) for group in run.graph.groups}
        self._surplus(options.rounds, level)
        self._round = 0
        self._ortho_from = 0
        self._masks: list[Tensor] = []
        self._decays: list[list[float]] | None = None
        self._find_layers()

    # --- members of Driver ---

    @property
    @override
    def phase(self) -> str:
        if self._done:
            return "done"
        return "orthonormal" if self._run.step >= self._ortho_from else "retraining"

    @override
    def attached(self) -> None:
        self._applied.relocate()

    @override
    def gradients_ready(self) -> None:
        ortho = self.phase == "orthonormal"
        self._weight_decay(off=ortho and self._how.without_decay)
        if ortho:
            self._applied.add(self._run.optimizers, self._run.at, decoupled=False)

    @override
    def stepped(self) -> None:
        clock, step = self._run.clock, self._run.step
        if self._done or step <= self._ortho_from or not clock.ends_epoch(step):
            return
        over = step >= self._ortho_from + self._how.ortho_epochs * clock.steps_per_epoch
        drawn = self._how.ticket is not None and self._settled()
        if over or drawn:
            self._cut("the penalised epochs are over" if over else "the early-bird ticket has settled")

    @override
    def conclude(self, *, early: bool) -> None:
        while early and not self._done:
            self._cut("finished early")
        self._weight_decay(off=False)

    @override
    def missing(self) -> str | None:
        done = f"{self._round} of {self._how.rounds} rounds are done; {self._how.epochs} epochs reach the last cut"
        return None if self._done else done

    @override
    def compacted(self, keep: Mapping[str, NDArray[Any]]) -> None:
        self._find_layers()

    @override
    def close(self) -> None:
        self._weight_decay(off=False)

    # --- the penalty ---

    def _find_layers(self) -> None:
        """Find all convolutions, protected ones too: the penalty applies to layers, not to groups."""
        run, names = self._run, dict[int, str]()
        for path, module in run.model.named_modules():
            if isinstance(module, _CONVS) and isinstance(module.weight, nn.Parameter):
                names.setdefault(id(module.weight), f"{path}.weight" if path else "weight")
        rows = Rows.layers(tuple(names.values()), run.parameters, biases=True)
        how = self._how
        penalty = Orthonormal(how.strength, how.norm, how.weighting, how.every)
        self._applied = Applied(penalty, Units("filter", rows, rows, (0,) * len(names)))

    def _weight_decay(self, *, off: bool) -> None:
        """Set weight decay to zero while the penalty is applied, and restore it afterwards."""
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
        weights = [tensor for tensor in self._applied.units.rows.tensors if tensor.dim() > 1]
        degree = np.mean([orthogonality(weight.flatten(1)) for weight in weights])
        scores, seen = self._scores()
        picked = self._surplus(self._round + 1, scores)
        self._round += 1
        self._done = self._round == self._how.rounds
        measured = f"importance from {seen} samples; degree of orthogonality {degree:.2f}"
        note = f"round {self._round} of {self._how.rounds}: {why}; {measured}"
        run.remove(picked, note)
        self._masks.clear()
        self._ortho_from = run.step + self._how.retrain_epochs * run.clock.steps_per_epoch
        if run.shrinks:
            self.shrink()

    def _scores(self) -> tuple[dict[str, Tensor], int]:
        """First-order importance of every unit, by group, and the number of samples used."""
        gradients, seen = self._importance.gradients(self._run)
        return {g.name: first_order(g, self._run.parameters, gradients) for g in self._run.graph.groups}, seen

    def _surplus(self, done: int, scores: Mapping[str, Tensor]) -> dict[str, NDArray[np.int64]]:
        """Return the units (present numbers) to remove after `done` rounds, ranked over the whole network."""
        run, rounds = self._run, self._how.rounds
        left = None if done == rounds else partial(left_after, done, rounds)
        budget = replace(budget_so_far(run, left), min_keep_fraction=0.0)
        return surplus(run, scores, partial(Ranked(AsIs()), floors=self._floors()), budget)

    def _floors(self) -> dict[str, int]:
        """Return the least number of units of each group: a share of its units in the first network."""
        budget = needed_budget(self._run)
        share = replace(budget, min_keep_fraction=max(self._how.floor, budget.min_keep_fraction))
        return {group.name: share.floor(group.units) for group in self._run.origin.groups}

    def _settled(self) -> bool:
        """The early-bird test: the newest mask is close to each of the previous ones."""
        ticket, run = self._how.ticket, self._run
        if ticket is None:
            return False
        gone = self._surplus(self._round + 1, ticket.scores(run))
        stays = [run.alive[g.name] & ~np.isin(np.arange(g.units), gone[g.name]) for g in run.graph.groups]
        mask = torch.from_numpy(np.concatenate(stays)).to(run.device)
        self._masks = [*self._masks, mask][-ticket.window :]
        return len(self._masks) == ticket.window and all(
            mask_distance(mask, other) <= ticket.distance for other in self._masks[:-1]
        )
