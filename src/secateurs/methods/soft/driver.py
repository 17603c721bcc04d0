"""The driver of soft pruning: at the end of an epoch the weakest filters are multiplied by a factor, and train on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from secateurs.errors import InputError
from secateurs.session.flat_units import squares
from secateurs.session.method import Driver, State
from secateurs.session.per_group import lowest
from secateurs.session.run import Run
from secateurs.session.schedule import Schedule, count
from secateurs.session.scope import Rates, Scoped, scoped

# From this share of the run on, finishing may zero what is selected: the authors' snap.
_SNAP = 0.95


@dataclass(frozen=True)
class Softness:
    """Which units, which share of the final rate at epoch t, which factor at epoch t, how often."""

    rate: Schedule
    decay: Schedule
    every: int
    unit: Literal["filter", "weight"]
    scope: Literal["coupled", "uncoupled"]
    scale_norm: bool
    remove: Rates | None

    def __post_init__(self) -> None:
        if self.every < 1 or self.unit not in {"filter", "weight"}:
            raise InputError(
                f"every={self.every}, unit={self.unit!r}: soft pruning acts every 1 or more epochs, on 'filter' or "
                f"'weight'."
            )


class SoftDriver(Driver):
    """Selects anew at every event, so that a filter that grew back is spared; only `finish` removes."""

    def __init__(self, run: Run, softness: Softness) -> None:
        self._run, self._how = run, softness
        self._sets: Scoped = scoped(
            run, softness.unit, softness.scope, softness.remove, up=False, norms=softness.scale_norm
        )
        self._done = False
        self._final_at = -1
        self._selected = torch.zeros(self._sets.ledger.total, dtype=torch.bool, device=run.device)

    @property
    @override
    def phase(self) -> str:
        return "done" if self._done else "softening"

    @property
    @override
    def ready(self) -> bool:
        return self._done or self._final_at == self._run.step

    @override
    def attached(self) -> None:
        if self._done:
            return
        self._sets.relocate()
        self._selected = self._selected.to(self._run.device)
        # The authors' code prunes once before the first epoch.
        if self._run.step == 0:
            self._event(0)

    @override
    def gradients_ready(self) -> None:
        pass

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
        parts = self._sets.ledger.split(self._selected)
        picked = {name: np.flatnonzero(part.cpu().numpy()) for name, part in parts.items()}
        self._sets.remove(self._run, picked, "zero at the end of the run")
        self._done = True

    @override
    def missing(self) -> str | None:
        if self._done:
            return None
        return f"filters are soft until step {int(np.ceil(_SNAP * self._run.clock.total))}"

    @override
    def compacted(self, keep: Mapping[str, NDArray[Any]]) -> None:
        """Only `finish` takes units out."""

    @override
    def state(self) -> State:
        return {"done": self._done, "final_at": self._final_at, "selected": self._selected}

    @override
    def restore(self, state: State) -> None:
        self._done, self._final_at = state["done"], state["final_at"]
        if not self._done:
            self._selected = state["selected"].to(self._run.device)

    @override
    def close(self) -> None:
        pass

    def _event(self, t: int) -> None:
        total = self._run.clock.epochs
        last = t >= total - 1
        share = 1.0 if last else min(1.0, max(0.0, float(self._how.rate(t, total))))
        factor = 0.0 if last else min(1.0, max(0.0, float(self._how.decay(t, total))))
        self._zero(share, factor)

    def _zero(self, share: float, factor: float) -> None:
        sets, run = self._sets, self._run
        counts = [_at(share, n, c) for n, c in zip(sets.ledger.sizes, sets.counts, strict=True)]
        score = sets.measured.measure(squares)
        self._selected = lowest(score, sets.ledger, torch.tensor(counts, device=run.device))
        if factor < 1.0 and any(counts):
            self._scale(torch.where(self._selected, factor, 1.0))
        if share == 1.0 and factor == 0.0:
            self._final_at = run.step
        run.note("softened", f"{sum(counts)} of {sets.ledger.total} {self._how.unit}s times {factor:.3g}")

    @torch.no_grad()
    def _scale(self, per_unit: Tensor) -> None:
        rows = self._sets.decayed
        factors = rows.factors(rows.expand(per_unit, fill=1.0))
        targets = [rows.tensors]
        for follower in self._run.followers:
            named = dict(follower.named_parameters(remove_duplicate=False))
            targets.append([named[place.tensor].detach() for place in rows.places])
        for tensors in targets:
            same = [f.to(t) for f, t in zip(factors, tensors, strict=True)]
            torch._foreach_mul_(tensors, same)  # pyright: ignore[reportPrivateImportUsage]


def _at(share: float, units: int, final: int) -> int:
    """How many are selected at a share of the final rate; the final number itself at share 1."""
    return final if share == 1.0 else min(final, count(units, share * final / units))
