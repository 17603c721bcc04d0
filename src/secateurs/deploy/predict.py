"""Predict a network's latency from its widths: the sum of its segments' times, calibrated on measured networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, final

import numpy as np
from scipy.optimize import nnls

from secateurs.deploy.segment_table import Table
from secateurs.deploy.segments import Placed
from secateurs.types import Floats, Ints

KINDS = ("spatial", "pointwise", "depthwise")
"""Kinds of segments, each with a factor: kernels larger than 1x1, matrix products, depthwise convolutions."""

PRIOR = 0.1
"""Weight of the common factor as a prior of the kinds' factors, relative to one measured network."""


@final
@dataclass(frozen=True, eq=False)
class Predictor:
    """t(widths) = a + Σ_kind b_kind · Σ segments of the kind + c · bytes written, over the dense network's time.

    a, b, c ≥ 0 are fitted to the measured networks `rows` [N, G] and `ratios` [N]. error: mean relative error when each
    of them is predicted by a fit to the others.
    """

    placed: tuple[Placed, ...]
    table: Table
    costs: Any
    step: int
    rows: Ints
    ratios: Floats

    def at(self, widths: Ints) -> Floats:
        """Time over the dense network's, for units kept per group [..., G]."""
        return self._parts(np.asarray(widths, np.int64)) @ self._weights

    def also(self, widths: Ints, ratio: float) -> Predictor:
        """Return a predictor fitted to one more measured network."""
        return replace(self, rows=np.concatenate([self.rows, widths[None]]), ratios=np.append(self.ratios, ratio))

    @cached_property
    def error(self) -> float:
        """Leave-one-out mean relative error on the measured networks."""
        parts, kept = self._parts(self.rows), np.arange(len(self.ratios))
        fits = [_fit(parts[kept != k], self.ratios[kept != k]) for k in kept]
        return float(np.mean([abs(parts[k] @ fits[k] / self.ratios[k] - 1) for k in kept]))

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

    @cached_property
    def _weights(self) -> Floats:
        return _fit(self._parts(self.rows), self.ratios)

    def _parts(self, widths: Ints) -> Floats:
        """[1, Σ segments of each kind, bytes written] for each row of widths."""
        sums = np.zeros((len(KINDS), *widths.shape[:-1]))
        for place, seconds in zip(self.placed, self._functions, strict=True):
            segment = place.segment
            kind = 2 if segment.groups > 1 else 0 if max(segment.kernel, default=1) > 1 else 1
            sums[kind] += seconds(*place.widths(widths))
        written = self.costs.at(widths)[..., 2].astype(np.float64)
        return np.stack([np.ones_like(written), *sums, written], axis=-1)


def _fit(parts: Floats, ratios: Floats) -> Floats:
    """Fit by least squares of the relative error: first one factor for all kinds, then one each with that as prior."""
    joint = np.stack([parts[:, 0], parts[:, 1:-1].sum(1), parts[:, -1]], axis=1)
    _, common, _ = _non_negative(joint, ratios)
    kinds = np.arange(1, parts.shape[1] - 1)
    prior = np.zeros((len(kinds), parts.shape[1]))
    prior[np.arange(len(kinds)), kinds] = PRIOR * parts[:, kinds].mean(0)
    rows = np.concatenate([parts / ratios[:, None], prior])
    return _non_negative(rows, np.concatenate([np.ones(len(ratios)), common * prior.sum(1)]), relative=False)


def _non_negative(rows: Floats, right: Floats, *, relative: bool = True) -> Floats:
    """Non-negative least squares, with columns scaled to one."""
    if relative:
        rows, right = rows / right[:, None], np.ones(len(right))
    scale = rows.max(0)
    scale[scale == 0] = 1.0
    return nnls(rows / scale, right)[0] / scale
