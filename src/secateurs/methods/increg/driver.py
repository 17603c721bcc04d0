"""The driver of IncReg: penalty factors that move with running mean ranks, and removal at a ceiling."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import torch
from typing_extensions import override

from secateurs.methods.increg.punish import IncrementalL2
from secateurs.session.method import Driver, State
from secateurs.session.penalty import Applied
from secateurs.session.per_group import lowest
from secateurs.session.run import Run
from secateurs.session.scope import find_units, silent_units, too_short

if TYPE_CHECKING:
    from secateurs.methods.increg.method import IncReg


class IncRegDriver(Driver):
    """All state is flat vectors on the device; removed units are read back at every fiftieth step at most."""

    working: ClassVar[str] = "punishing"
    saved: ClassVar[tuple[str, ...]] = ("_applied.state",)

    def __init__(self, run: Run, options: IncReg) -> None:
        super().__init__(run)
        if options.limit > run.clock.total:
            why = "what its factors leave is decided by rank only then"
            raise too_short("IncReg", options.limit, run.clock.total, why)
        self._how = options
        self._every = max(1, min(50, options.limit // 100))
        units = find_units(run, options.unit, options.scope, options.remove, up=True)
        self._applied = Applied(IncrementalL2(options.step, options.ceiling, options.punish), units)
        self._bind()

    def _bind(self) -> None:
        """One factor of zero or one for every row, as views that broadcast over the tensors."""
        measured = self._applied.units.measured
        self._mask = measured.expand((~self._applied.state.dead).float(), fill=1.0)
        self._views = measured.factors(self._mask)

    @override
    def attached(self) -> None:
        if not self._done:
            self._applied.relocate()
            self._bind()

    @override
    def gradients_ready(self) -> None:
        if not self._done:
            self._applied.add(self._run.optimizers, self._run.at, decoupled=self._how.decoupled)

    @override
    def stepped(self) -> None:
        if self._done:
            return
        updates = self._applied.state.updates
        if updates >= self._how.ceiling / self._how.step:
            self._zero()
        if updates % self._every == 0:
            self._read("their penalty factor reached the ceiling")
        if not self._done and updates >= self._how.limit:
            self._cut("still below the ceiling at the limit; the lowest mean ranks")

    @override
    def conclude(self, *, early: bool) -> None:
        if early and not self._done:
            self._read("their penalty factor reached the ceiling")
            self._cut("finished early; the lowest mean ranks")

    @override
    def missing(self) -> str | None:
        if self._done:
            return None
        state = self._applied.state
        left = sum(self._applied.units.counts) - int(state.dead.sum())
        return f"{left} {self._how.unit}s have to go still; the limit is in {self._how.limit - state.updates} steps"

    @override
    def restore(self, state: State) -> None:
        super().restore(state)
        if not self._done:
            self._bind()

    # --- removal ---

    @torch.no_grad()
    def _zero(self) -> None:
        """Zero every unit that has reached the ceiling, without a device synchronisation."""
        measured = self._applied.units.measured
        self._mask.copy_(measured.expand((~self._applied.state.dead).float(), fill=1.0))
        tensors = measured.tensors
        torch._foreach_mul_(tensors, [v.to(t) for v, t in zip(self._views, tensors, strict=True)])  # pyright: ignore[reportPrivateImportUsage]

    def _read(self, why: str) -> None:
        """Report the units zeroed since the last reading; the only place that synchronises with the device."""
        units = self._applied.units
        dead = units.picked(self._applied.state.dead)
        counts = [len(found) for found in dead.values()]
        if self._how.unit == "filter":
            dead = {name: found[self._run.alive[name][found]] for name, found in dead.items()}
        if sum(map(len, dead.values())):
            units.remove(self._run, dead, why)
        if counts == list(units.counts):
            self._finish()

    def _cut(self, why: str) -> None:
        """Remove the units that are still due, lowest rank first."""
        if self._done:
            return
        units, state = self._applied.units, self._applied.state
        counts = torch.tensor(units.counts, device=state.dead.device)
        chosen = lowest(torch.where(state.dead, -torch.inf, state.rank), units.ledger, counts)
        self._applied.state = replace(state, dead=state.dead | chosen)
        self._zero()
        self._read(why)

    def _finish(self) -> None:
        self._done = True
        if self._how.unit == "column":
            self._run.remove(silent_units(self._run), "every column that reads them is zero")
        self._run.note("phase", "all that has to go is gone; the network recovers")
        if self._run.shrinks:
            self.shrink()
