"""The value of widths from the scores of units, for a budget of latency."""

from __future__ import annotations

import numpy as np

from secateurs.allocate.choice import Function
from secateurs.types import Floats, Ints


def elasticities(cost: Function, whole: Ints) -> Floats:
    """Return the elasticities of a cost: its change in percent for one percent of each group's units, [G], above 0.

    Weighted by these, `log_shares` of equal scores are maximised, under this cost, by equal shares of all groups.

    >>> elasticities(lambda w: w[..., 0] * w[..., 1] + 8.0 * w[..., 1], np.array([8, 4])).round(2).tolist()
    [0.5, 1.0]
    """
    without = whole - np.eye(len(whole), dtype=np.int64)
    full = cost(whole)
    return np.maximum((full - cost(without)) * whole / np.maximum(full, 1e-30), 1e-3)


def log_shares(scores: Floats, counts: Ints) -> Floats:
    """Return the value of keeping the best c units of a group: the logarithm of their share of the group's score.

    The logarithm makes each further removal from a small group cost more, so that no group is emptied because it is
    slow. If any score is negative, the lowest is subtracted from all.

    >>> np.exp(log_shares(np.array([1.0, 3.0]), np.array([1, 2]))).round(3).tolist()
    [0.75, 1.0]
    """
    raised = np.sort(scores - min(0.0, float(scores.min())))[::-1]
    raised = raised + max(float(raised.mean()), 1e-30) * 1e-6
    return np.log(np.cumsum(raised)[counts - 1] / raised.sum())
