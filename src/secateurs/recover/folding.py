"""Add the mean contribution of removed channels to the biases of the layers that read them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from secateurs.recover.recovery import Pair
from secateurs.recover.solve import Change, error_of
from secateurs.recover.walk import Sampling, Seen, walk


@dataclass(frozen=True)
class FoldMeans:
    """Add to the bias of every layer the mean contribution of its removed inputs.

        b ← b + mean over images and positions of (y_dense - y_small)

    y: the layer's output after the norm and the shortcut sum that follow it. If nothing else differs, the difference is
    Σ W_r mean(x_r) over the removed inputs r; it is exact if these are constant and no border is padded with zeros.
    Next to a padded border, only the mean over all positions is corrected. If the layer has no bias, that of the
    following norm is changed; without either, the layer stays unchanged.

    seed: of the random choice of images and positions. Raises what `recover` raises.

    Source: VBP (Berisha et al., ICCV 2025), which folds means into the second layer of an MLP. Ours: any layer that
    reads removed channels, in forward order, so that the losses of earlier layers are compensated too.

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
    >>> recover(small, net, [x], plan=plan, steps=FoldMeans())[1].bias.tolist()  # the mean of 2·x
    [15.0]
    """

    seed: int = 0

    def recover(self, pair: Pair) -> None:
        """Change the biases of `pair.small`."""
        walk(pair, Sampling(per_column=1, seed=self.seed, determined=False), _shift, "mean")


def _shift(seen: Seen) -> Change | None:
    if seen.layer.bias is None:
        return None
    rows, scale = seen.rows, seen.scale.to(seen.rows.now.device)
    step = (rows.target.double() - rows.now.double()).mean(0)
    usable = scale.abs() > 1e-6 * scale.abs().max()
    bias = torch.where(usable, step / torch.where(usable, scale, 1.0), 0.0)
    before = error_of(rows.now, rows, None)
    after = error_of(rows.now + (bias * scale).to(rows.now.dtype), rows, None)
    return Change(torch.zeros_like(seen.weight, dtype=torch.float64), bias, before, after) if after < before else None
