"""Scale filters so that every channel has the variance of the dense network."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from secateurs.errors import InputError
from secateurs.recover.recovery import Pair
from secateurs.recover.solve import Change, error_of
from secateurs.recover.walk import Sampling, Seen, walk


@dataclass(frozen=True)
class RepairVariance:
    """Scale the filter of every channel so that its output has the variance of the dense network.

        w_c ← (1 + shrinkage (a_c - 1)) w_c,   a_c the positive root of   Var(a_c y_c + r_c) = Var(dense_c)

    y: the layer's own output; r: the shortcut added to it (0 without one). Removing inputs reduces variance, which
    lowers activations wherever no norm follows. shrinkage: in (0, 1]; below 1, part of the loss stays, since scaling a
    channel whose output is mostly error amplifies the error. a_c is limited to [1/4, 4]. The mean of a channel is kept
    by its bias; nothing else changes. Use it before `Recalibrate`. seed: of the random choice of images and positions.

    Raises InputError for a shrinkage out of range, and what `recover` raises.

    Source: ASR (2026, channel-wise variance repair), with its shrinkage as one number (ours).

    >>> import copy, torch
    >>> from torch import nn
    >>> import secateurs as sct
    >>> from secateurs.recover.recovery import recover
    >>> net = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 1))  # y = 1·(1·x) + 1·(2·x)
    >>> net[0].weight.data, net[1].weight.data = torch.tensor([[1.0], [2.0]]), torch.ones(1, 2)
    >>> net[1].bias.data = torch.zeros(1)
    >>> x = torch.arange(16.0)[:, None]
    >>> plan = sct.Plan.from_keep(sct.trace(net, x), {"0": [0]})
    >>> small = sct.apply(plan, copy.deepcopy(net))
    >>> recover(small, net, [x], plan=plan, steps=RepairVariance(1.0))[1].weight.tolist()  # var(3·x) / var(x) = 3²
    [[3.0]]
    """

    shrinkage: float = 0.5
    _: KW_ONLY
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse a shrinkage out of range."""
        if not 0 < self.shrinkage <= 1:
            message = f"RepairVariance(shrinkage={self.shrinkage}) is no part of the way. Give a number in (0, 1]."
            raise InputError(message)

    def recover(self, pair: Pair) -> None:
        """Change the weights of `pair.small`."""
        walk(pair, Sampling(per_column=1, seed=self.seed, determined=False), self._scaled, "variance")

    def _scaled(self, seen: Seen) -> Change | None:
        rows, scale = seen.rows, seen.scale.to(seen.rows.now.device)
        own = torch.einsum("rgc,goc->rgo", rows.x, seen.weight.to(rows.x.dtype)).flatten(1).double() * scale
        factor = 1 + self.shrinkage * (_root(own, rows.now.double() - own, rows.target.double()) - 1)
        grown = (factor - 1).unflatten(0, seen.weight.shape[:2])[:, :, None] * seen.weight.double()
        back = -(factor - 1) * own.mean(0) / torch.where(scale == 0, 1.0, scale)
        bias = back if seen.layer.bias is not None else torch.zeros_like(back)
        now = rows.now + ((factor - 1) * own + bias * scale).to(rows.now.dtype)
        if bool((factor == 1).all()):
            return None
        return Change(grown, bias, error_of(rows.now, rows, None), error_of(now, rows, None))


def _root(own: Tensor, rest: Tensor, wanted: Tensor) -> Tensor:
    """Return the factor of `own` for which own + rest has the wanted variance."""
    a, c = own.var(0), rest.var(0) - wanted.var(0)
    b = ((own - own.mean(0)) * (rest - rest.mean(0))).sum(0) * 2 / max(1, len(own) - 1)
    inside = (b.square() - 4 * a * c).clamp_min(0)
    found = (-b + inside.sqrt()) / (2 * a).clamp_min(torch.finfo(a.dtype).tiny)
    return torch.where((a > 0) & torch.isfinite(found), found.clamp(0.25, 4.0), 1.0)
