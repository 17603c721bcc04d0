"""The value of widths where a criterion scores units and time is short."""

from __future__ import annotations

import numpy as np

from secateurs.allocate.choice import Function
from secateurs.types import Floats, Ints


def elasticities(cost: Function, whole: Ints) -> Floats:
    """How many percent of a cost go when one percent of a group's units goes, in the whole network: [G], above zero.

    With these weights, the choice of `log_shares` within that very cost and for equal scores is the uniform one.

    >>> elasticities(lambda w: w[..., 0] * w[..., 1] + 8.0 * w[..., 1], np.array([8, 4])).round(2).tolist()
    [0.5, 1.0]
    """
    without = whole - np.eye(len(whole), dtype=np.int64)
    full = cost(whole)
    return np.maximum((full - cost(without)) * whole / np.maximum(full, 1e-30), 1e-3)


def log_shares(scores: Floats, counts: Ints) -> Floats:
    """Value of keeping the best c units of a group: the logarithm of their share of the group's score.

    What is left of a group grows dearer as it shrinks, so that none is emptied because it is slow. Scores below zero
    are raised by the lowest.

    >>> np.exp(log_shares(np.array([1.0, 3.0]), np.array([1, 2]))).round(3).tolist()
    [0.75, 1.0]
    """
    raised = np.sort(scores - min(0.0, float(scores.min())))[::-1]
    raised = raised + max(float(raised.mean()), 1e-30) * 1e-6
    return np.log(np.cumsum(raised)[counts - 1] / raised.sum())
