"""`Sparsify` and `Gradual`: methods that prune during training, composed of penalty, criterion, allocator, schedule.

`Sparsify` = penalty + criterion + allocator + until: penalise units, then cut the network once.

* Network Slimming (Liu et al. 2017) = ScaleL1 + BatchNormScale + Ranked(AsIs()): `methods.NetworkSlimming`
* DepGraph's sparse learning (Fang et al. 2023) = GroupNorm + Magnitude(p=2) + Ranked(ByMax()): `methods.DepGraph`
* GReg-1 = a growing L2 on the smallest units + removal of these units at the end: `methods.GReg1`
* OrthoReg = an orthonormality penalty + first-order importance + Ranked(AsIs()), in rounds: `methods.OrthoReg`

`Gradual` = criterion + allocator + schedule: score, cut and retrain, in rounds.

* gradual magnitude pruning (Zhu & Gupta 2017) of channels = Magnitude + Cubic
* iterative Taylor pruning (Molchanov et al. 2017) = Taylor + Linear
* one-shot pruning in the middle of a run = any criterion + OneShot

SFP and its variants instead set units to zero and let them recover: `methods.SFP`. Penalties are in `penalty.py`.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from typing_extensions import override

from secateurs.allocate import Allocator, Ranked
from secateurs.criteria import Criterion, Magnitude
from secateurs.errors import EvidenceError, InputError, check_choice
from secateurs.evidence import Weights
from secateurs.session.choose import budget_so_far, scores_now, surplus
from secateurs.session.method import Driver
from secateurs.session.penalty import Applied, Penalty
from secateurs.session.run import Run
from secateurs.session.schedule import Cubic, Schedule
from secateurs.session.scope import Units, needed_budget
from secateurs.types import Scope

First = Literal["train", "cut"]


@dataclass(frozen=True)
class Sparsify:
    """Penalise units for the first part of a run, then cut the network to its budget, and recover.

    penalty: see `secateurs.session.penalty`. criterion, allocator: choose the units removed at the step until·(steps of
    the run). until: share of the run in which units are penalised. scope: "coupled" (all groups) or "uncoupled" (groups
    with one producer). decoupled: True applies W ← W − lr·λ·W instead of adding to the gradient; None follows the
    optimizer (decoupled under Adam). Raises InputError for values out of range.

    >>> from secateurs.session.penalty import GroupNorm
    >>> Sparsify(GroupNorm(1e-4), Magnitude(p=2)).until
    0.5
    """

    penalty: Penalty[Any]
    criterion: Criterion
    _: KW_ONLY
    allocator: Allocator = Ranked()  # noqa: RUF009
    until: float = 0.5
    scope: Scope = "coupled"
    decoupled: bool | None = None
    reference: ClassVar[str] = "A sum of a penalty, a criterion and an allocator; see secateurs.session.sparsify"

    def __post_init__(self) -> None:
        check_choice(self, scope=Scope)
        if not 0.0 < self.until <= 1.0:
            raise InputError(f"until={self.until}: the cut is at a share of the run above 0 and at most 1.")

    def fitted(self, steps_per_epoch: int, epochs: int) -> Self:
        """Return the method itself: its cut is at a share of the run."""
        return self

    def start(self, run: Run) -> Driver:
        """Find the units and check that the budget can be reached; the model is not changed."""
        return SparsifyDriver(run, self)


class SparsifyDriver(Driver):
    """Adds the penalty until the units are removed."""

    working: ClassVar[str] = "penalised"
    saved: ClassVar[tuple[str, ...]] = ("_applied.state",)

    def __init__(self, run: Run, options: Sparsify) -> None:
        super().__init__(run)
        check_ahead(run, options.criterion, options.allocator, options.scope)
        self._how = options
        self._until = max(1, int(options.until * run.clock.total))
        groups = run.groups(scope=options.scope)
        measured = run.rows(groups)
        rows = run.rows(groups, roles=options.penalty.roles)
        self._applied = Applied(options.penalty, Units("filter", rows, measured, (0,) * len(groups)))

    @override
    def attached(self) -> None:
        self._applied.relocate()

    @override
    def gradients_ready(self) -> None:
        if not self._done:
            self._applied.add(self._run.optimizers, self._run.at, decoupled=self._how.decoupled)

    @override
    def stepped(self) -> None:
        if not self._done and self._run.step >= self._until:
            self._cut("the penalised part of the run is over")

    @override
    def conclude(self, *, early: bool) -> None:
        if early and not self._done:
            self._cut("finished early")

    @override
    def missing(self) -> str | None:
        return None if self._done else f"units are penalised until step {self._until}, and cut then"

    def _cut(self, why: str) -> None:
        run, how = self._run, self._how
        picked = surplus(run, scores_now(run, how.criterion), how.allocator, needed_budget(run), how.scope)
        self._done = True
        run.remove(picked, f"{why}; the lowest by {how.criterion!r}")
        if run.shrinks:
            self.shrink()


@dataclass(frozen=True)
class Gradual:
    """Score, prune and retrain in rounds, with any criterion.

    After round k of `rounds`, the share schedule(k, rounds) of the budget's removal is done; the rounds are spread
    evenly from the share `begin` of the run to the share `end`, and the rest of the run recovers. first: "train" cuts
    at the end of each round, "cut" at its beginning (iterative pruning: cut, retrain, cut, ...). schedule: `Cubic` (Zhu
    & Gupta 2017), `Linear`, `Exponential`, `OneShot`, or a function of (k, n). criterion, allocator, scope: see
    `Sparsify`. Raises InputError for values out of range. Zhu & Gupta remove single weights of each layer; here units
    of the whole network are removed, and the share is of the budget's MACs, parameters or memory (ours).

    >>> Gradual(rounds=4).steps(100)
    (12, 25, 37, 50)
    >>> Gradual(rounds=4, end=1.0, first="cut").steps(100)
    (1, 25, 50, 75)
    """

    criterion: Criterion = Magnitude(p=2)  # noqa: RUF009
    _: KW_ONLY
    allocator: Allocator = Ranked()  # noqa: RUF009
    schedule: Schedule = Cubic()  # noqa: RUF009
    rounds: int = 10
    begin: float = 0.0
    end: float = 0.5
    scope: Scope = "coupled"
    first: First = "train"
    reference: ClassVar[str] = (
        "Michael Zhu, Suyog Gupta. To Prune, or Not to Prune: Exploring the Efficacy of Pruning for Model Compression. "
        "ICLR workshop 2018. arXiv 1710.01878"
    )

    def __post_init__(self) -> None:
        check_choice(self, scope=Scope, first=First)
        if self.rounds < 1 or not 0.0 <= self.begin < self.end <= 1.0:
            raise InputError(
                f"Gradual(rounds={self.rounds}, begin={self.begin}, end={self.end}): rounds count from 1, and begin "
                "and end are shares of the run, begin first."
            )

    def steps(self, total: int) -> tuple[int, ...]:
        """The steps of a run of `total` after which the rounds cut."""
        width = (self.end - self.begin) / self.rounds
        done = range(1, self.rounds + 1) if self.first == "train" else range(self.rounds)
        return tuple(max(1, int(total * (self.begin + width * k) + 1e-9)) for k in done)

    def fitted(self, steps_per_epoch: int, epochs: int) -> Self:
        """Return the method itself: its rounds are at shares of the run."""
        return self

    def start(self, run: Run) -> Driver:
        """Check that the budget can be reached; the model is not changed."""
        return GradualDriver(run, self)


class GradualDriver(Driver):
    """Cuts at the end of each round."""

    saved: ClassVar[tuple[str, ...]] = ("_round",)

    def __init__(self, run: Run, options: Gradual) -> None:
        super().__init__(run)
        check_ahead(run, options.criterion, options.allocator, options.scope)
        self._how = options
        self._steps = options.steps(run.clock.total)
        self._round = 0

    @override
    def stepped(self) -> None:
        due = int(np.searchsorted(self._steps, self._run.step, side="right"))
        if not self._done and due > self._round:
            self._cut(due, f"round {due} of {self._how.rounds}")

    @override
    def conclude(self, *, early: bool) -> None:
        if early and not self._done:
            self._cut(self._how.rounds, "finished early")

    @override
    def missing(self) -> str | None:
        return (
            None
            if self._done
            else f"{self._round} of {self._how.rounds} rounds are done, the last at step {self._steps[-1]}"
        )

    def _cut(self, number: int, why: str) -> None:
        run, how = self._run, self._how
        share = 1.0 if number == how.rounds else min(1.0, max(0.0, float(how.schedule(number, how.rounds))))
        self._round, self._done = number, share == 1.0
        budget = budget_so_far(run, None if self._done else lambda removed: 1.0 - share * removed)
        picked = surplus(run, scores_now(run, how.criterion), how.allocator, budget, how.scope)
        run.remove(picked, f"{why}; the lowest by {how.criterion!r}")
        if run.shrinks:
            self.shrink()


def check_ahead(run: Run, criterion: Criterion, allocator: Allocator, scope: Scope) -> None:
    """Refuse, before training, a budget that cannot be reached and a criterion that lacks its data."""
    if run.data is None and any(need is not Weights for need in criterion.needs.values()):
        raise EvidenceError(
            f"{criterion!r} measures on data, and the session was given none. Pass data=, an iterable of (inputs, "
            "targets) batches, and loss= unless it is cross entropy."
        )
    level = {g.name: torch.zeros(g.units, dtype=torch.float64) for g in run.graph.groups}
    surplus(run, level, allocator, needed_budget(run), scope)
