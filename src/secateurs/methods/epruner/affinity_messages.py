"""The messages of affinity propagation, restricted to each point's nearest neighbours.

With similarities s(i, k), preferences p_k = s(k, k), responsibilities r and availabilities a:

    r(i, k) <- s(i, k) - max over k' != k of [a(i, k') + s(i, k')]
    a(i, k) <- min(0, r(k, k) + sum over i' not in {i, k} of max(0, r(i', k)))      for i != k
    a(k, k) <- sum over i' != k of max(0, r(i', k))
    message <- damping * old + (1 - damping) * new

k is an exemplar where r(k, k) + a(k, k) > 0. As a(i, i) >= 0 and a(i, k) <= 0 at all times, a pair with s(i, k) <= p_i
has r(i, k) <= 0 for ever: it adds nothing to any sum, its availability is that of its column, and it can matter only to
r(i, i). So messages run along the pairs that a point prefers to itself, a few per point at the preferences used for
pruning; r(i, i) is computed from the others only where a bound requires it. The messages sent are the textbook's.

Shapes: L problems, C points, T neighbours of each point, nearest first.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

SPARE = 4
"""Neighbours beyond those a point prefers to itself; with them, r(i, i) rarely depends on other points."""


@dataclass(eq=False)
class State:
    """The messages of a batch, changed in place by `exchange`; every tensor has the problems first.

    `m` = a + s and `r` run along the pairs [L, C, T], whose neighbours are `index`, counted through the batch in
    `flat`; `own_r`, `own_a` are r(k, k), a(k, k); `far_a` is the availability of k to the points that it is no
    neighbour of; `bound` is the best similarity outside the neighbours.
    """

    s_LCC: Tensor
    p: Tensor
    index: Tensor
    flat: Tensor
    s: Tensor
    m: Tensor
    r: Tensor
    own_r: Tensor
    own_a: Tensor
    far_a: Tensor
    bound: Tensor
    before: Tensor
    same: Tensor

    def keep(self, stay: Tensor) -> None:
        """Remove the converged problems."""
        for field in fields(self):
            if field.name != "flat":
                setattr(self, field.name, getattr(self, field.name)[stay])
        self.flat = _flat(self.index)


def _flat(index: Tensor) -> Tensor:
    """Count points through the batch: [L, C, T] -> [L * C * T]."""
    offsets = torch.arange(0, index.shape[0] * index.shape[1], index.shape[1], device=index.device)
    return (index + offsets[:, None, None]).flatten()


def begin(s_LCC: Tensor) -> State:
    """Choose equally many neighbours for all points: the most that a point prefers to itself, and `SPARE` more."""
    size = s_LCC.shape[-1]
    p = diagonal(s_LCC).clone()
    others = s_LCC.clone()
    diagonal(others).fill_(-torch.inf)
    wanted = int((others > p[..., None]).sum(-1).amax())
    count = min(size - 1, wanted + SPARE)
    if others.device.type == "cpu":  # NumPy sorts with vector instructions, four times faster
        order = torch.from_numpy(np.argsort(-others.numpy(), axis=-1, kind="stable"))
    else:
        order = torch.sort(others, dim=-1, descending=True, stable=True).indices
    index = order[..., :count].contiguous()
    s = others.gather(-1, index)
    zero = torch.zeros_like(p)
    return State(
        s_LCC=s_LCC,
        p=p,
        index=index,
        flat=_flat(index),
        s=s,
        m=s.clone(),
        r=torch.zeros_like(s),
        own_r=zero,
        own_a=zero.clone(),
        far_a=zero.clone(),
        bound=others.gather(-1, order[..., count : count + 1])[..., 0],  # minus infinity where all are neighbours
        before=torch.zeros_like(p, dtype=torch.bool),
        same=torch.zeros(len(s), dtype=torch.int64, device=s.device),
    )


def exchange(x: State, gain: float) -> Tensor:
    """Send all messages once, moving each by `gain` towards its new value; return r(k, k) + a(k, k): [L, C].

    With c_k = r(k, k) + sum over i' != k of max(0, r(i', k)), the new availability of a neighbour is

        min(0, c_k - max(0, r(i, k))) = c_k - max(r(i, k), max(0, c_k)).
    """
    best = _row_argmax(x.m)[..., None]
    top = x.m.gather(-1, best)
    x.m.scatter_(-1, best, -torch.inf)
    second = x.m.amax(-1, keepdim=True)
    x.m.scatter_(-1, best, top)
    own = (x.p + x.own_a)[..., None]
    most = torch.maximum(top, own)
    work = torch.sub(x.s, most)
    x.r.lerp_(work, gain)
    x.r.scatter_add_(-1, best, gain * (most - torch.maximum(second, own)))
    x.own_r.lerp_(x.p - _best_other(x, top[..., 0]), gain)
    torch.clamp_min(x.r, 0, out=work)
    support = _column_sums(x, work)
    x.own_a.lerp_(support, gain)
    c = x.own_r + support
    x.far_a.lerp_(c.clamp_max(0), gain)
    c_pairs = c.flatten().index_select(0, x.flat).view_as(work)
    torch.maximum(x.r, c_pairs.clamp_min(0), out=work)
    x.m.lerp_(c_pairs.sub_(work).add_(x.s), gain)
    return x.own_r + x.own_a


def _best_other(x: State, top: Tensor) -> Tensor:
    """Best a(i, k) + s(i, k) over all k != i: among the neighbours it is `top`, beyond them at most `bound`."""
    short = (top < x.bound).nonzero(as_tuple=True)
    if not len(short[0]):
        return top
    problem, point = short
    beyond = x.s_LCC[problem, point] + x.far_a[problem]
    beyond.scatter_(-1, x.index[problem, point], -torch.inf)
    beyond.scatter_(-1, point[:, None], -torch.inf)
    top = top.clone()
    top[short] = torch.maximum(top[short], beyond.amax(-1))
    return top


def _column_sums(x: State, pairs: Tensor) -> Tensor:
    """Sum over i of the entries (i, k) of pairs [L, C, T]: [L, C]."""
    if pairs.device.type == "cpu":
        return torch.zeros_like(x.p).flatten().scatter_add_(0, x.flat, pairs.flatten()).view_as(x.p)
    # On an accelerator scattered additions come in any order; a matrix is summed in the same order every time.
    return torch.zeros_like(x.s_LCC).scatter_(-1, x.index, pairs).sum(1)


def _row_argmax(m: Tensor) -> Tensor:
    """Position of each row's maximum; of equal ones the first."""
    if m.device.type == "cpu":
        return torch.from_numpy(m.numpy().argmax(-1))  # torch's own is scalar on the CPU: nine times slower at C = 256
    return m.argmax(-1)


def diagonal(x: Tensor) -> Tensor:
    """Return a view of the diagonals of matrices, [L, C]."""
    return x.diagonal(dim1=-2, dim2=-1)
