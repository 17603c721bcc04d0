"""The driver of GReg: pick, grow, stabilise, remove, then leave the loop to recover."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from secateurs.methods.greg.growth import Growth
from secateurs.session.flat_units import l1
from secateurs.session.method import Driver, State
from secateurs.session.penalty import Decay
from secateurs.session.per_group import group_means, lowest, spread
from secateurs.session.run import Run
from secateurs.session.scope import Scoped, scoped, too_short

if TYPE_CHECKING:
    from secateurs.methods.greg.method import GReg1, GReg2

Phase = Literal["picking", "growing", "stabilising", "done"]

# Reading the magnitude ratio waits for the device, so it is read at every hundredth of the rises at most.
_READS = 100


@dataclass(frozen=True)
class Pace:
    """How factors move: growth of the chosen, picking before it (GReg-2), the kept units' factor, and the end."""

    growth: Growth
    pick: Growth | None
    recover: float
    stabilise: int
    ratio: float
    decoupled: bool | None


class GrowingDriver(Driver):
    """Factors are whole numbers of rises, the same for every group that is not finished: nothing drifts."""

    def __init__(self, run: Run, pace: Pace, options: GReg1 | GReg2, *, name: str) -> None:
        if options.steps > run.clock.total:
            raise too_short(name, options.steps, run.clock.total, "its penalty grows by fixed rises, then stabilises")
        self._run, self._pace, self._options = run, pace, options
        self._sets: Scoped = scoped(run, options.unit, options.scope, options.remove, up=True, norms=options.norms)
        self._decay = Decay(self._sets.decayed)
        self._phase: Phase = "growing" if pace.pick is None else "picking"
        groups = len(self._sets.ledger.sizes)
        self._picks = 0
        self._rises = [0] * groups
        self._finished = [count == 0 for count in self._sets.counts]
        self._smooth: Tensor | None = None
        self._stable = 0
        self._chosen = torch.zeros(self._sets.ledger.total, dtype=torch.bool, device=run.device)
        if pace.pick is None:
            self._choose("the smallest mean magnitudes at the start")

    # --- what a session asks ---

    @property
    @override
    def phase(self) -> str:
        return self._phase

    @property
    @override
    def ready(self) -> bool:
        return self._phase == "done"

    @override
    def attached(self) -> None:
        if self._phase != "done":
            self._sets.relocate()
            self._decay = Decay(self._sets.decayed)
            self._chosen = self._chosen.to(self._run.device)
            self._smooth = None if self._smooth is None else self._smooth.to(self._run.device)
            self._set_factors()

    @override
    def gradients_ready(self) -> None:
        if self._phase in {"picking", "growing"} and self._run.step % self._pace.growth.every == 0:
            self._rise()
        if self._phase != "done":
            self._decay.add(self._run.optimizers, decoupled=self._pace.decoupled)

    @override
    def stepped(self) -> None:
        if self._phase == "stabilising":
            self._stable += 1
            if self._stable > self._pace.stabilise:
                self._remove("their penalty has driven them to nothing")

    @override
    def conclude(self, *, early: bool) -> None:
        if early and self._phase != "done":
            if self._phase == "picking":
                self._choose("finished early, by the present magnitudes")
            self._remove("finished early")

    @override
    def missing(self) -> str | None:
        if self._phase == "done":
            return None
        left = self._options.steps - self._run.step
        return f"the penalty is still {self._phase}; it removes its units within {max(left, 1)} more steps"

    @override
    def compacted(self, keep: Mapping[str, NDArray[Any]]) -> None:
        """Units leave only when the penalty's work is done."""

    @override
    def state(self) -> State:
        return {
            "phase": self._phase,
            "picks": self._picks,
            "rises": list(self._rises),
            "finished": list(self._finished),
            "smooth": self._smooth,
            "stable": self._stable,
            "chosen": self._chosen,
        }

    @override
    def restore(self, state: State) -> None:
        self._phase, self._picks, self._stable = state["phase"], state["picks"], state["stable"]
        if self._phase == "done":
            return
        self._rises, self._finished = list(state["rises"]), list(state["finished"])
        self._smooth = None if state["smooth"] is None else state["smooth"].to(self._run.device)
        self._chosen = state["chosen"].to(self._run.device)
        self._set_factors()

    @override
    def close(self) -> None:
        pass

    # --- the schedule ---

    def _rise(self) -> None:
        if self._phase == "picking":
            self._picks += 1
            self._set_factors()
            if self._pace.pick is not None and self._picks >= self._pace.pick.rises - 1:
                self._choose("the smallest mean magnitudes after picking")
                self._phase = "growing"
                self._run.note("phase", "the units are picked; their penalty grows")
            return
        self._rises = [n if done else n + 1 for n, done in zip(self._rises, self._finished, strict=True)]
        self._set_factors()
        self._test()

    def _set_factors(self) -> None:
        ledger, pace = self._sets.ledger, self._pace
        picked = 0.0 if pace.pick is None else pace.pick.factor(self._picks)
        if self._phase == "picking":
            self._decay.set(torch.full((ledger.total,), picked, device=self._run.device))
            return
        grown = torch.tensor([picked + pace.growth.factor(n) for n in self._rises], device=self._run.device)
        losing = torch.tensor([float(c > 0) for c in self._sets.counts], device=self._run.device)
        kept = spread(losing * pace.recover, ledger)
        self._decay.set(torch.where(self._chosen, spread(grown, ledger), kept))

    def _test(self) -> None:
        """Finish groups whose factor is past the ceiling or whose magnitudes have parted."""
        pace = self._pace
        picked = 0.0 if pace.pick is None else pace.pick.factor(self._picks)
        # nine digits are what was meant: 10 000 × 1e-4 must not exceed 1
        over = [round(picked + pace.growth.factor(n), 9) > pace.growth.ceiling for n in self._rises]
        done = [a or b for a, b in zip(self._finished, over, strict=True)]
        if self._options.unit == "filter":
            parted = self._parted()
            # GReg-1 tests all its groups jointly (they share one factor), GReg-2 each on its own.
            joint = [all(p or f for p, f in zip(parted, self._finished, strict=True))] * len(parted)
            done = [d or p for d, p in zip(done, joint if pace.pick is None else parted, strict=True)]
        self._finished = done
        if all(done):
            self._phase = "stabilising"
            self._run.note("phase", f"factors up to {max(self._rises) * pace.growth.step + picked:.3g}; stabilising")

    def _parted(self) -> list[bool]:
        sets = self._sets
        score, chosen = sets.measured.measure(l1, mean=True), self._chosen.float()
        kept = group_means(score, 1.0 - chosen, sets.ledger)
        ratio = kept / group_means(score, chosen, sets.ledger).clamp(min=1e-30)
        self._smooth = ratio if self._smooth is None else 0.9 * self._smooth + 0.1 * ratio
        if max(self._rises) % max(1, self._pace.growth.rises // _READS):
            return [False] * len(sets.counts)
        return (self._smooth >= self._pace.ratio).tolist()

    def _choose(self, why: str) -> None:
        sets = self._sets
        counts = torch.tensor(sets.counts, device=self._run.device)
        self._chosen = lowest(sets.measured.measure(l1, mean=True), sets.ledger, counts)
        self._run.note("picked", f"{int(self._chosen.sum())} of {sets.ledger.total} units: {why}")
        self._set_factors()

    def _remove(self, why: str) -> None:
        self._phase = "done"
        parts = self._sets.ledger.split(self._chosen)
        self._sets.remove(self._run, {n: np.flatnonzero(part.cpu().numpy()) for n, part in parts.items()}, why)
        if self._run.shrinks:
            self._run.compact()
