"""The driver of soft pruning: after an epoch, the filters of smallest norm are multiplied by a factor, and train on."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from secateurs.methods.soft.independent import find_filters, leave_zeros
from secateurs.session.flat_units import squares
from secateurs.session.method import Driver
from secateurs.session.per_group import lowest
from secateurs.session.run import Run
from secateurs.session.schedule import count
from secateurs.session.scope import Units, find_units

if TYPE_CHECKING:
    from secateurs.methods.soft.method import SFP

# From this share of the run on, finishing may zero the selected filters, as the authors' code does.
_SNAP = 0.95


class SoftDriver(Driver):
    """Selects filters anew at every event, so that they can recover; only `finish` removes them."""

    working: ClassVar[str] = "softening"
    saved: ClassVar[tuple[str, ...]] = ("_final_at", "_selected")

    def __init__(self, run: Run, options: SFP) -> None:
        super().__init__(run)
        self._how = options
        self._units = units_of(run, options)
        self._final_at = -1
        self._selected = torch.zeros(self._units.ledger.total, dtype=torch.bool, device=run.device)

    @property
    @override
    def ready(self) -> bool:
        return self._done or self._final_at == self._run.step

    @override
    def attached(self) -> None:
        if self._done:
            return
        self._units.relocate()
        self._selected = self._selected.to(self._run.device)
        # The authors' code prunes once before the first epoch.
        if self._run.step == 0:
            self._event(0)

    @override
    def stepped(self) -> None:
        clock, step = self._run.clock, self._run.step
        if not self._done and clock.ends_epoch(step, self._how.every):
            self._event(-(-step // clock.steps_per_epoch) - 1)

    @override
    def conclude(self, *, early: bool) -> None:
        if self._done or not (early or self._run.step >= _SNAP * self._run.clock.total):
            return
        self._zero(1.0, 0.0)
        if self._how.scope == "independent":
            leave_zeros(self._run, self._units, self._selected)
        else:
            self._units.remove(self._run, self._units.picked(self._selected), "zero at the end of the run")
        self._done = True

    @override
    def missing(self) -> str | None:
        return None if self._done else f"filters are soft until step {int(np.ceil(_SNAP * self._run.clock.total))}"

    def _event(self, t: int) -> None:
        total = self._run.clock.epochs
        last = t >= total - 1
        share = 1.0 if last else min(1.0, max(0.0, float(self._how.rate(t, total))))
        factor = 0.0 if last else min(1.0, max(0.0, float(self._how.decay(t, total))))
        self._zero(share, factor)

    def _zero(self, share: float, factor: float) -> None:
        units, run = self._units, self._run
        counts = [_at(share, n, c) for n, c in zip(units.ledger.sizes, units.counts, strict=True)]
        score = units.measured.measure(squares)
        self._selected = lowest(score, units.ledger, torch.tensor(counts, device=run.device))
        if factor < 1.0 and any(counts):
            self._scale(torch.where(self._selected, factor, 1.0))
        if share == 1.0 and factor == 0.0:
            self._final_at = run.step
        run.note("softened", f"{sum(counts)} of {units.ledger.total} {self._how.unit}s times {factor:.3g}")

    @torch.no_grad()
    def _scale(self, per_unit: Tensor) -> None:
        rows = self._units.rows
        factors = rows.factors(rows.expand(per_unit, fill=1.0))
        targets = [rows.tensors]
        for follower in self._run.followers:
            named = dict(follower.named_parameters(remove_duplicate=False))
            targets.append([named[place.tensor].detach() for place in rows.places])
        for tensors in targets:
            same = [f.to(t) for f, t in zip(factors, tensors, strict=True)]
            torch._foreach_mul_(tensors, same)  # pyright: ignore[reportPrivateImportUsage]


def units_of(run: Run, options: SFP) -> Units:
    """The filters or weights that a method selects from."""
    if options.scope == "independent":
        return find_filters(run, options.remove)
    roles = ("out", "bias", "scale", "shift") if options.norms else ("out",)
    return find_units(run, options.unit, options.scope, options.remove, up=False, roles=roles)


def _at(share: float, units: int, final: int) -> int:
    """Number of units selected at a share of the final rate; the final number itself at share 1."""
    return final if share == 1.0 else min(final, count(units, share * final / units))
