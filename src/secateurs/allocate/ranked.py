"""Ranked: remove the units with the lowest scores in the whole network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field

import numpy as np
import torch
from torch import Tensor

from secateurs.allocate.budget import RESOURCES, Budget
from secateurs.allocate.levels import Costed, levels
from secateurs.allocate.normalise import ByMean, Normaliser
from secateurs.allocate.steps import checked, kept, meet, removal_order
from secateurs.types import Floats, Ints, Keep


@dataclass(frozen=True)
class Ranked:
    """Rank all units of the network by normalised score and remove them in that order until the budget is met.

    normalise: function that makes scores of different groups comparable: `ByMean()` (default), `ByMax()`, `BySum()`,
    `AsIs()`, or your own. per_cost: divide each score by the cost that removing a unit of its group saves in the dense
    network, as a fraction of the network's cost, summed over the budget's constraints: units with less importance per
    cost are removed first, and units that save nothing last. With `multiple_of`, units are removed in blocks with the
    mean score of their units.

    Of equal scores, the one of the group with the larger remaining share is removed first, then the lower group; inside
    a group, the higher unit index. With all scores equal, this is `Uniform`.

    >>> import torch
    >>> from torch import nn
    >>> from secateurs.graph import trace
    >>> net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))
    >>> graph = trace(net, torch.zeros(1, 4))
    >>> scores = {"0": torch.tensor([1.0, 2, 3, 4]).double(), "2": torch.ones(4).double()}
    >>> {name: kept.tolist() for name, kept in Ranked()(scores, graph, Budget(filters=4)).items()}
    {'0': [2, 3], '2': [0, 1]}
    """

    normalise: Normaliser = field(default_factory=ByMean)
    _: KW_ONLY
    per_cost: bool = False

    def __call__(
        self, scores: Mapping[str, Tensor], graph: Costed, budget: Budget, *, floors: Mapping[str, int] | None = None
    ) -> Keep:
        """Return the units that stay in every group; at least floors[name] of those named, the best ones."""
        allowed = levels(graph, budget, floors=floors)
        raw = checked(scores, graph, allowed)
        ranked = checked({name: self.normalise(torch.from_numpy(s)) for name, s in raw.items()}, graph, allowed)
        orders = {name: removal_order(values) for name, values in ranked.items()}
        savings = _savings(graph, budget, allowed) if self.per_cost else np.ones(len(allowed))
        steps = {
            group.name: (_step_scores(ranked[group.name][orders[group.name]], counts), saved)
            for group, counts, saved in zip(graph.groups, allowed, savings.tolist(), strict=True)
            if len(counts) > 1
        }
        keys = {name: _per_cost(means, saved) for name, (means, saved) in steps.items()}
        for tie in graph.ties:
            mine = [(*steps[name], n) for name, n in zip(tie.groups, tie.step, strict=True) if name in steps]
            keys |= {name: _together(mine) for name in tie.groups if name in steps}
        return kept(graph, orders, meet(graph, budget, keys, allowed))


def _step_scores(ascending: Floats, counts: Ints) -> Floats:
    """Mean score of the units that each step removes.

    >>> _step_scores(np.array([1.0, 3.0, 4.0, 8.0]), np.array([1, 2, 4])).tolist()
    [2.0, 4.0]
    """
    edges = len(ascending) - counts[::-1]
    starts, ends = edges[:-1], edges[1:]
    return np.add.reduceat(ascending[: ends[-1]], starts) / (ends - starts)


def _per_cost(means: Floats, saved: float) -> Floats:
    """Return scores per unit of cost, made non-decreasing against rounding errors.

    >>> _per_cost(np.array([2.0, 4.0]), 2.0).tolist()
    [1.0, 2.0]
    """
    return np.maximum.accumulate(means / saved if saved > 0 else np.full(len(means), np.inf))


def _together(members: list[tuple[Floats, float, int]]) -> Floats:
    """Scores of steps that tied groups take together: (mean scores, saving of a unit, units a step) of each of them.

    >>> _together([(np.array([1.0, 2.0]), 1.0, 1), (np.array([4.0, 5.0]), 1.0, 2)]).tolist()
    [3.0, 4.0]
    """
    score = sum((means * n for means, _, n in members), np.zeros(len(members[0][0])))
    return _per_cost(score, sum(saved * n for _, saved, n in members))


def _savings(graph: Costed, budget: Budget, allowed: list[Ints]) -> Floats:
    """Fraction of the budgeted cost that one unit of each group saves, at its first step down in the dense network."""
    top = np.array([counts[-1] for counts in allowed], np.int64)
    next_ = np.array([counts[-2] if len(counts) > 1 else counts[-1] for counts in allowed], np.int64)
    stepped = np.where(np.eye(len(allowed), dtype=bool), next_, top)
    whole = graph.costs.at(top)
    saved = (whole - graph.costs.at(stepped)) / np.maximum(whole, 1)
    given = [getattr(budget, name) is not None for name in RESOURCES]
    counted = 0.0 if budget.filters is None else (top - next_) / max(1, int(top.sum()))
    if budget.peak_memory is not None:
        peak = graph.costs.moments(top).max(initial=1)
        counted = counted + (peak - graph.costs.moments(stepped).max(-1, initial=1)) / peak
    return (saved[:, given].sum(1) + counted) / np.maximum(top - next_, 1)
