"""GReg's growing L2 penalty: a factor per unit that rises by a fixed step, kept as a whole number of steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from secateurs.errors import InputError
from secateurs.graph.groups import Role
from secateurs.session.flat_units import l1
from secateurs.session.per_group import group_means, lowest, spread
from secateurs.session.schedule import Position
from secateurs.session.scope import Units

# Reading the magnitudes synchronises with the device, so it is done at every hundredth rise at most.
_READS = 100


@dataclass(frozen=True)
class Growth:
    """A penalty factor that grows by `step` every `every` optimizer steps until `ceiling`.

    The factor after n rises is n·step, a product and not a sum of n terms: 10 000 additions of 1e-4 in float32
    drift, and the ceiling would be crossed an update early or late. Source: Wang et al. 2021 (GReg, arXiv
    2012.09243), published code.

    >>> growth = Growth(step=1e-4, ceiling=1.0, every=10)
    >>> growth.rises, growth.steps, growth.factor(100)
    (10001, 100001, 0.01)
    """

    _: KW_ONLY
    step: float
    ceiling: float
    every: int = 1

    def __post_init__(self) -> None:
        if not (self.step > 0.0 and self.ceiling > 0.0 and self.every >= 1):
            raise InputError(f"{self}: step and ceiling must be positive, and every at least 1.")

    @property
    def rises(self) -> int:
        """Rises until the factor exceeds the ceiling."""
        return int(self.ceiling / self.step + 1e-9) + 1

    @property
    def climbs(self) -> int:
        """Rises until the factor reaches the ceiling."""
        return math.ceil(self.ceiling / self.step - 1e-9)

    @property
    def steps(self) -> int:
        """Optimizer steps until the factor exceeds the ceiling; the first rise is at the first step."""
        return (self.rises - 1) * self.every + 1

    def factor(self, rises: int) -> float:
        """The factor after `rises` rises."""
        return rises * self.step


@dataclass(frozen=True, eq=False)
class Grown:
    """The state of the penalty: rises so far (of all units while picking, then of each group), and the chosen units.

    factors: those of the last rise, which apply until the next one.
    """

    phase: Literal["picking", "growing", "grown"]
    picks: int
    rises: tuple[int, ...]
    finished: tuple[bool, ...]
    chosen: Tensor
    smooth: Tensor | None
    factors: Tensor


@dataclass(frozen=True)
class GrowingL2:
    """A penalty whose factor rises by `growth.step` every `growth.every` steps; kept units have the factor `recover`.

    pick: first the factor of all units rises, and then the smallest are chosen (GReg-2); without it they are chosen
    at once (GReg-1). A group is finished when its factor exceeds `growth.ceiling`, or when the mean magnitude of its
    kept units is `kept_over_removed` times that of the chosen (smoothed by 0.9).
    """

    growth: Growth
    pick: Growth | None
    recover: float
    kept_over_removed: float
    roles: tuple[Role, ...] = ("out",)

    def init(self, units: Units) -> Grown:
        """Return the state before the first step; without `pick`, units are chosen here."""
        device, groups = units.rows.device, len(units.counts)
        nobody = torch.zeros(units.ledger.total, dtype=torch.bool, device=device)
        begun = Grown(
            phase="growing" if self.pick is None else "picking",
            picks=0,
            rises=(0,) * groups,
            finished=tuple(count == 0 for count in units.counts),
            chosen=nobody,
            smooth=None,
            factors=torch.zeros(units.ledger.total, device=device),
        )
        return self.choose(units, begun) if self.pick is None else begun

    def update(self, units: Units, state: Grown, at: Position) -> tuple[Tensor, Grown]:
        """Raise the factors if a rise is due, and return them."""
        if at.step % self.growth.every == 0 and state.phase != "grown":
            state = self._pick(units, state) if state.phase == "picking" else self._grow(units, state)
        return state.factors, state

    def direction(self, weights: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return W."""
        return weights

    def choose(self, units: Units, state: Grown) -> Grown:
        """Choose the smallest units of each group; their penalty begins with the next rise."""
        counts = torch.tensor(units.counts, device=units.rows.device)
        chosen = lowest(units.measured.measure(l1, mean=True), units.ledger, counts)
        return replace(state, phase="growing", chosen=chosen)

    def picked_factor(self, picks: int) -> float:
        """The factor of all units after so many rises of picking."""
        return 0.0 if self.pick is None else self.pick.factor(picks)

    def _pick(self, units: Units, state: Grown) -> Grown:
        picks = state.picks + 1
        factors = spread(self._losing(units) * self.picked_factor(picks), units.ledger)
        over = self.pick is None or picks >= self.pick.climbs
        if over or units.unit == "filter":
            state = self.choose(units, state)
        smooth = self._ratio(units, state) if units.unit == "filter" else None
        phase = "growing" if over else "picking"
        return replace(state, phase=phase, picks=picks, factors=factors, smooth=smooth)

    def _grow(self, units: Units, state: Grown) -> Grown:
        picked, device = self.picked_factor(state.picks), units.rows.device
        rises = tuple(n if done else n + 1 for n, done in zip(state.rises, state.finished, strict=True))
        grown = torch.tensor([picked + self.growth.factor(n) for n in rises], device=device)
        kept = spread(self._losing(units) * self.recover, units.ledger)
        factors = torch.where(state.chosen, spread(grown, units.ledger), kept)
        return self._tested(units, replace(state, rises=rises, factors=factors), picked)

    def _tested(self, units: Units, state: Grown, picked: float) -> Grown:
        """Finish groups whose factor is above the ceiling or whose magnitudes have separated."""
        # rounded to nine digits: 10 000 × 1e-4 must not exceed 1
        over = [round(picked + self.growth.factor(n), 9) > self.growth.ceiling for n in state.rises]
        done = [a or b for a, b in zip(state.finished, over, strict=True)]
        if units.unit == "filter":
            parted, state = self._parted(units, state)
            # GReg-1 tests all groups jointly (they share one factor), GReg-2 each separately.
            joint = [all(p or f for p, f in zip(parted, state.finished, strict=True))] * len(parted)
            done = [d or p for d, p in zip(done, joint if self.pick is None else parted, strict=True)]
        return replace(state, finished=tuple(done), phase="grown" if all(done) else "growing")

    def _losing(self, units: Units) -> Tensor:
        """1 for groups that lose units, 0 for those without a penalty, [groups]."""
        return torch.tensor([float(c > 0) for c in units.counts], device=units.rows.device)

    def _ratio(self, units: Units, state: Grown) -> Tensor:
        """Mean magnitude of the kept over that of the chosen units, smoothed, [groups]."""
        score, chosen = units.measured.measure(l1, mean=True), state.chosen.float()
        kept = group_means(score, 1.0 - chosen, units.ledger)
        ratio = kept / group_means(score, chosen, units.ledger).clamp(min=1e-30)
        return ratio if state.smooth is None else 0.9 * state.smooth + 0.1 * ratio

    def _parted(self, units: Units, state: Grown) -> tuple[list[bool], Grown]:
        smooth = self._ratio(units, state)
        state = replace(state, smooth=smooth)
        if max(state.rises) % max(1, self.growth.rises // _READS):
            return [False] * len(units.counts), state
        return (smooth >= self.kept_over_removed).tolist(), state
