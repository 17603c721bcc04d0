"""Affinity Propagation (Frey and Dueck, Science 2007), batched over problems of equal size, on any device.

Messages pass between points until the exemplars no longer change (see `affinity_messages`); then each point joins its
nearest exemplar, and each cluster is represented by its medoid. Defaults, stopping rule and medoid step are
scikit-learn's.

Shapes: L problems, C points.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from secateurs.errors import InputError
from secateurs.methods.epruner.affinity_messages import begin, diagonal, exchange

HELD = {"cpu": 1 << 21, "cuda": 1 << 30}
"""Bytes of similarities per batch: the size of caches, or enough to keep an accelerator busy."""


@dataclass(frozen=True)
class Messages:
    """Settings of message passing: damping, most iterations, and unchanged iterations after which it stops.

    The defaults are scikit-learn's; `CAREFUL` is for problems that oscillate under them.
    """

    damping: float = 0.5
    iterations: int = 200
    patience: int = 15

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if not 0.5 <= self.damping < 1:
            msg = f"Messages(damping={self.damping}) is outside [0.5, 1). Less oscillates, 1 never moves. Try 0.9."
            raise InputError(msg)
        if not 1 <= self.patience <= self.iterations:
            msg = (
                f"Messages(iterations={self.iterations}, patience={self.patience}) can never stop by agreement. "
                f"The patience counts iterations. Use 1 <= patience <= iterations."
            )
            raise InputError(msg)


CAREFUL = Messages(damping=0.9, iterations=1000)


@dataclass(frozen=True, eq=False)
class Clustering:
    """Exemplars of one problem, ascending; `evidence[k]` = r(k, k) + a(k, k) when the messages stopped."""

    exemplars: Tensor
    evidence: Tensor
    iterations: int
    converged: bool


def column_median(s: Tensor) -> Tensor:
    """Median of each column of symmetric matrices, diagonal included: [..., C, C] -> [..., C]; of two middles the mean.

    >>> column_median(torch.tensor([[0.0, 2.0, 4.0], [2.0, 0.0, 6.0], [4.0, 6.0, 0.0]]))
    tensor([2., 2., 4.])
    """
    count = s.shape[-1]
    if s.device.type != "cpu":
        return _middle(s.sort().values)
    # NumPy sorts with vector instructions: on the CPU twenty times faster than torch, and than any selection.
    parts = s.reshape(-1, count, count).split(_at_once(s))
    return torch.cat([_middle(torch.from_numpy(np.sort(part.numpy()))) for part in parts]).view(s.shape[:-1])


def _middle(ordered: Tensor) -> Tensor:
    count = ordered.shape[-1]
    return (ordered[..., (count - 1) // 2] + ordered[..., count // 2]) / 2


def _at_once(s_LCC: Tensor) -> int:
    """Return the number of problems of this size per batch."""
    size = s_LCC.shape[-1]
    return max(1, HELD.get(s_LCC.device.type, HELD["cpu"]) // (s_LCC.element_size() * size * size))


def affinity_propagation(
    s_LCC: Tensor,
    p_LC: Tensor,
    *,
    messages: Messages = Messages(),
    retry: Messages | None = CAREFUL,
    seed: int = 0,
) -> list[Clustering]:
    """Cluster each problem: similarities [L, C, C] (any diagonal), preferences [L, C] -> one `Clustering` a problem.

    A problem that does not converge is run again with `retry`; if it still does not, the exemplars of the last
    iteration are returned, or every point if there are none. Ties are broken by noise at rounding level that depends on
    `seed` and C only: the result of a problem does not depend on the other problems in the batch.

    >>> x = torch.tensor([[0.0], [1.0], [2.0], [10.0], [11.0], [12.0]], dtype=torch.float64)
    >>> s = -(x - x.T).square()
    >>> [c] = affinity_propagation(s[None], torch.full((1, 6), -20.0, dtype=torch.float64))
    >>> c.exemplars, c.converged
    (tensor([1, 4]), True)
    """
    s_LCC = s_LCC.detach().to(torch.float64)
    size = s_LCC.shape[-1]
    held = _at_once(s_LCC)
    noise_CC = _tie_noise(size, seed, s_LCC.device)
    found: list[Clustering] = []
    for s_part, p_part in zip(s_LCC.split(held), p_LC.split(held), strict=True):
        found += _solve(s_part, p_part.to(s_part), noise_CC, messages)
    loose = [index for index, one in enumerate(found) if not one.converged]
    if retry is not None and loose:
        again = affinity_propagation(s_LCC[loose], p_LC[loose], messages=retry, retry=None, seed=seed)
        for index, one in zip(loose, again, strict=True):
            everything = torch.arange(size, device=s_LCC.device)
            found[index] = one if one.exemplars.numel() else Clustering(everything, one.evidence, one.iterations, False)
    return found


def _tie_noise(size: int, seed: int, device: torch.device) -> Tensor:
    """Return the tie-breaking factors [C, C], at the rounding level of float64 as in scikit-learn."""
    noise = torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return noise.mul_(torch.finfo(torch.float64).eps).to(device)


def _solve(s_LCC: Tensor, p_LC: Tensor, noise_CC: Tensor, messages: Messages) -> list[Clustering]:
    """Cluster one batch: problems with an obvious answer directly, the others by message passing."""
    s_LCC = s_LCC.clone()
    diagonal(s_LCC).fill_(-torch.inf)
    nearest_LC = s_LCC.amax(-1)
    # Where every point prefers itself to every other, all r(k, k) > 0 and all a(i, k) = 0 from the first iteration on:
    # every point is an exemplar, and no message need be passed. Random and wide layers are of this kind.
    lonely = (p_LC - nearest_LC > 1e-12 * p_LC.abs()).all(-1)
    diagonal(s_LCC).copy_(p_LC)
    found: list[Clustering | None] = [None] * len(s_LCC)
    for index in range(len(s_LCC)):
        if lonely[index]:
            everything = torch.arange(s_LCC.shape[-1], device=s_LCC.device)
            found[index] = Clustering(everything, p_LC[index] - nearest_LC[index], 0, True)
        elif (alike := _all_alike(s_LCC[index])) is not None:
            found[index] = Clustering(alike, p_LC[index] - nearest_LC[index], 0, True)
    open_ = [index for index, one in enumerate(found) if one is None]
    if open_:
        s_open = s_LCC[open_]
        s_open.addcmul_(s_open, noise_CC)
        for index, one in zip(open_, _pass_messages(s_open, messages), strict=True):
            found[index] = one
    return [one for one in found if one is not None]


def _all_alike(s_CC: Tensor) -> Tensor | None:
    """Answer the degenerate problem of equal similarities and equal preferences, where messages are not informative."""
    size = s_CC.shape[0]
    off = s_CC.flatten()[1:].view(size - 1, size + 1)[:, :-1] if size > 1 else s_CC.new_zeros(1)
    own = s_CC.diagonal()
    if size > 1 and (off.amin() != off.amax() or own.amin() != own.amax()):
        return None
    return torch.arange(size if size == 1 or own[0] >= off.flatten()[0] else 1, device=s_CC.device)


def _pass_messages(s_LCC: Tensor, messages: Messages) -> list[Clustering]:
    """Pass messages until each problem's exemplars no longer change; converged problems leave the batch."""
    found: dict[int, Clustering] = {}
    alive = torch.arange(len(s_LCC), device=s_LCC.device)
    state = begin(s_LCC)
    for step in range(1, messages.iterations + 1):
        evidence = exchange(state, 1 - messages.damping)
        now = evidence > 0
        state.same = torch.where((now == state.before).all(-1), state.same + 1, 1)
        state.before = now
        # scikit-learn checks after patience + 1 iterations at first, and requires at least one exemplar.
        settled = (state.same >= messages.patience) & now.any(-1) & (step > messages.patience)
        done = settled if step < messages.iterations else torch.ones_like(settled)
        if not bool(done.any()):
            continue
        for row in done.nonzero()[:, 0].tolist():
            exemplars = _medoids(state.s_LCC[row], now[row].nonzero()[:, 0])
            found[int(alive[row])] = Clustering(exemplars, evidence[row], step, bool(settled[row]))
        alive = alive[~done]
        if not len(alive):
            break
        state.keep(~done)
    return [found[index] for index in range(len(s_LCC))]


def _medoids(s_CC: Tensor, exemplars: Tensor) -> Tensor:
    """Move each exemplar to the member of its cluster with the largest summed similarity; ascending."""
    if not exemplars.numel():
        return exemplars
    cluster = s_CC[:, exemplars].argmax(-1)
    cluster[exemplars] = torch.arange(len(exemplars), device=s_CC.device)
    together = cluster[:, None] == cluster[None, :]
    within = (s_CC * together).sum(0)  # of member j: the similarities of its cluster's members to it
    best = torch.full((len(exemplars),), -torch.inf, dtype=s_CC.dtype, device=s_CC.device)
    best.scatter_reduce_(0, cluster, within, "amax")
    points = torch.arange(len(s_CC), device=s_CC.device)
    first = torch.where(within >= best[cluster], points, len(points))
    medoids = torch.full_like(exemplars, len(points)).scatter_reduce_(0, cluster, first, "amin")
    return medoids.sort().values
