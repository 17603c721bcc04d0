"""A network's time as a function of its widths: the sum of its segments, calibrated on real networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, final

import numpy as np
from scipy.optimize import nnls

from secateurs.deploy.segment_table import Table
from secateurs.deploy.segments import Placed
from secateurs.types import Floats, Ints


@final
@dataclass(frozen=True, eq=False)
class Predictor:
    """t(widths) = a + b · Σ segments + c · bytes written, with a, b, c fitted to measured networks.

    error: mean relative error when each measured network is predicted by a fit to the others.
    """

    placed: tuple[Placed, ...]
    table: Table
    costs: Any
    step: int
    weights: tuple[float, float, float] = (0.0, 1.0, 0.0)
    error: float = float("nan")

    def at(self, widths: Ints) -> Floats:
        """Seconds for units kept per group [..., G]."""
        return self._parts(np.asarray(widths, np.int64)) @ np.array(self.weights)

    def fitted(self, widths: Sequence[Ints], seconds: Sequence[float]) -> Predictor:
        """Fit a, b, c ≥ 0 to measured networks, by least squares of the relative error."""
        parts, times = self._parts(np.stack(widths)), np.array(seconds)
        kept = np.arange(len(times))
        missed = [abs(parts[k] @ _fit(parts[kept != k], times[kept != k]) / times[k] - 1) for k in kept]
        a, b, c = _fit(parts, times).tolist()
        return replace(self, weights=(a, b, c), error=float(np.mean(missed)))

    def slowest(self, widths: Ints, most: int = 3) -> list[str]:
        """Modules whose segments take the most time at these widths, the slowest first."""
        took = {
            place.module: float(seconds(*(w[None] for w in place.widths(widths)))[0])
            for place, seconds in zip(self.placed, self._functions, strict=True)
        }
        return sorted(took, key=lambda name: -took[name])[:most]

    @cached_property
    def _functions(self) -> list[Callable[[Ints, Ints], Floats]]:
        return [self.table.function(place, self.step) for place in self.placed]

    def _parts(self, widths: Ints) -> Floats:
        """[1, Σ segments, bytes written] for each row of widths."""
        total = np.zeros(widths.shape[:-1])
        for place, seconds in zip(self.placed, self._functions, strict=True):
            total = total + seconds(*place.widths(widths))
        written = self.costs.at(widths)[..., 2].astype(np.float64)
        return np.stack([np.ones_like(total), total, written], axis=-1)


def _fit(parts: Floats, times: Floats) -> Floats:
    scale = parts.max(0)
    scale[scale == 0] = 1.0
    return nnls(parts / scale / times[:, None], np.ones(len(times)))[0] / scale
