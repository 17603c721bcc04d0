"""The driver of GReg: pick, grow, stabilise, remove, then leave the loop to recover."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from typing_extensions import override

from secateurs.methods.greg.growth import GrowingL2
from secateurs.session.method import Driver
from secateurs.session.penalty import Applied
from secateurs.session.run import Run
from secateurs.session.scope import find_units, too_short

if TYPE_CHECKING:
    from secateurs.methods.greg.method import GReg1, GReg2


class GrowingDriver(Driver):
    """Applies the growing penalty, waits `stabilise` steps, and removes the chosen units."""

    saved: ClassVar[tuple[str, ...]] = ("_applied.state", "_stable")

    def __init__(self, run: Run, options: GReg1 | GReg2, penalty: GrowingL2) -> None:
        super().__init__(run)
        if options.steps > run.clock.total:
            why = "its penalty grows by fixed rises, then stabilises"
            raise too_short(type(options).__name__, options.steps, run.clock.total, why)
        self._how, self._penalty = options, penalty
        units = find_units(run, options.unit, options.scope, options.remove, up=True, roles=penalty.roles)
        self._applied = Applied(penalty, units)
        self._stable = 0
        if penalty.pick is None:
            self._note_choice("the smallest mean magnitudes at the start")

    @property
    @override
    def phase(self) -> str:
        if self._done:
            return "done"
        return "stabilising" if self._applied.state.phase == "grown" else self._applied.state.phase

    @override
    def attached(self) -> None:
        if not self._done:
            self._applied.relocate()

    @override
    def gradients_ready(self) -> None:
        if self._done:
            return
        before = self._applied.state.phase
        self._applied.add(self._run.optimizers, self._run.at, decoupled=self._how.decoupled)
        after = self._applied.state
        if before == "picking" != after.phase:
            self._note_choice("the smallest mean magnitudes after picking")
            self._run.note("phase", "the units are picked; their penalty grows")
        if before != "grown" == after.phase:
            picked = self._penalty.picked_factor(after.picks)
            highest = max(after.rises) * self._penalty.growth.step + picked
            self._run.note("phase", f"factors up to {highest:.3g}; stabilising")

    @override
    def stepped(self) -> None:
        if self.phase == "stabilising":
            self._stable += 1
            if self._stable > self._how.stabilise:
                self._remove("their penalty has driven them to nothing")

    @override
    def conclude(self, *, early: bool) -> None:
        if early and not self._done:
            if self.phase == "picking":
                self._applied.state = self._penalty.choose(self._applied.units, self._applied.state)
                self._note_choice("finished early, by the present magnitudes")
            self._remove("finished early")

    @override
    def missing(self) -> str | None:
        left = self._how.steps - self._run.step
        doing = f"the penalty is still {self.phase}; it removes its units within {max(left, 1)} more steps"
        return None if self._done else doing

    def _note_choice(self, why: str) -> None:
        units, chosen = self._applied.units, self._applied.state.chosen
        self._run.note("picked", f"{int(chosen.sum())} of {units.ledger.total} units: {why}")

    def _remove(self, why: str) -> None:
        units = self._applied.units
        self._done = True
        units.remove(self._run, units.picked(self._applied.state.chosen), why)
        if self._run.shrinks:
            self.shrink()
