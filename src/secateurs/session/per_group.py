"""Ranks and choices within each group, for all groups at once."""

from __future__ import annotations

import torch
from torch import Tensor

from secateurs.session.flat_units import Ledger

# If padding to a rectangle exceeds this multiple of the units, groups are sorted one by one.
_RAGGED = 8


def ranks(scores: Tensor, ledger: Ledger) -> Tensor:
    """Ascending rank of each unit within its group, [units]; of equal scores the first comes first.

    >>> ranks(torch.tensor([3.0, 1.0, 2.0, 9.0, 8.0]), Ledger(("a", "b"), (3, 2))).tolist()
    [2, 0, 1, 1, 0]
    """
    found = torch.empty_like(scores, dtype=torch.int64)
    if len(ledger.sizes) * max(ledger.sizes, default=0) > _RAGGED * max(ledger.total, 1) and ledger.total > 4096:
        for part, rank in zip(scores.split(list(ledger.sizes)), found.split(list(ledger.sizes)), strict=True):
            rank[part.argsort(stable=True)] = torch.arange(part.numel(), device=part.device)
        return found
    table = ledger.padded().to(scores.device)
    padded = torch.cat([scores, scores.new_full((1,), torch.inf)])[table]
    order = padded.argsort(dim=1, stable=True)
    counted = torch.arange(order.shape[1], device=scores.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(1, order, counted)
    inside = table < ledger.total
    found[table[inside]] = rank[inside]
    return found


def lowest(scores: Tensor, ledger: Ledger, counts: Tensor) -> Tensor:
    """Mark the units that are among the `counts[g]` lowest of their group g, [units] of booleans.

    >>> lowest(torch.tensor([3.0, 1.0, 2.0, 9.0, 8.0]), Ledger(("a", "b"), (3, 2)), torch.tensor([2, 0])).tolist()
    [False, True, True, False, False]
    """
    return ranks(scores, ledger) < spread(counts, ledger)


def spread(per_group: Tensor, ledger: Ledger) -> Tensor:
    """Repeat one value per group for each of its units.

    >>> spread(torch.tensor([7, 5]), Ledger(("a", "b"), (1, 2))).tolist()
    [7, 5, 5]
    """
    return per_group.repeat_interleave(torch.tensor(ledger.sizes, device=per_group.device), output_size=ledger.total)


def group_sums(values: Tensor, ledger: Ledger) -> Tensor:
    """Sum of the units of each group, [groups].

    >>> group_sums(torch.tensor([1.0, 3.0, 5.0]), Ledger(("a", "b"), (2, 1)))
    tensor([4., 5.])
    """
    zeros = torch.zeros(len(ledger.sizes), dtype=values.dtype, device=values.device)
    return zeros.index_add(0, ledger.group_of().to(values.device), values)


def group_means(values: Tensor, weights: Tensor, ledger: Ledger) -> Tensor:
    """Weighted mean of the units of each group, [groups]; 0 where the weights sum to 0.

    >>> group_means(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([1.0, 1.0, 0.0]), Ledger(("a", "b"), (2, 1)))
    tensor([2., 0.])
    """
    whole = group_sums(weights.to(values.dtype), ledger).clamp(min=torch.finfo(values.dtype).tiny)
    return group_sums(values * weights, ledger) / whole


def extremes(values: Tensor, ledger: Ledger) -> tuple[Tensor, Tensor]:
    """Smallest and largest value of each unit's group: two vectors [units].

    >>> low, high = extremes(torch.tensor([1.0, 3.0, 5.0]), Ledger(("a", "b"), (2, 1)))
    >>> low.tolist(), high.tolist()
    ([1.0, 1.0, 5.0], [3.0, 3.0, 5.0])
    """
    group = ledger.group_of().to(values.device)
    none = torch.zeros(len(ledger.sizes), dtype=values.dtype, device=values.device)
    ends = (none.scatter_reduce(0, group, values, how, include_self=False) for how in ("amin", "amax"))
    low, high = (end.index_select(0, group) for end in ends)
    return low, high
