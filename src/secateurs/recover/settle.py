"""Set running statistics to those of the present activations, and rescale so that the outputs do not change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from secateurs.running.batches import Batch
from secateurs.running.hooks import hooked
from secateurs.running.untouched import untouched


class _Moments:
    """Count, sum and sum of squares of every channel of a norm's input."""

    def __init__(self, norm: _BatchNorm) -> None:
        self.norm = norm
        self.count = 0
        self.sums = [torch.zeros(norm.num_features, dtype=torch.float64) for _ in range(2)]

    def __call__(self, x: Tensor) -> Tensor:
        flat = x.detach().transpose(0, 1).flatten(1)
        shifted = flat - self.norm.running_mean[:, None] if self.norm.running_mean is not None else flat
        self.count += flat.shape[1]
        self.sums[0] += shifted.sum(1, dtype=torch.float64).cpu()
        self.sums[1] += shifted.square().sum(1, dtype=torch.float64).cpu()
        return x

    @torch.no_grad()
    def settle(self) -> None:
        """Set the new statistics, and change scale and shift so that the outputs stay equal."""
        norm = self.norm
        mean, variance = norm.running_mean, norm.running_var
        if mean is None or variance is None or self.count < 2:
            return
        old = (mean.double(), (variance.double() + norm.eps).sqrt())
        step, square = (total.to(mean.device) / self.count for total in self.sums)
        new = (square - step.square()).clamp_min(0) * self.count / (self.count - 1)
        # a constant channel keeps its statistics: its new variance would be 0
        moves = new > 1e-6 * variance.double()
        spread = torch.where(moves, (new + norm.eps).sqrt(), old[1])
        step = torch.where(moves, step, 0.0)
        gamma, beta = norm.weight.double(), norm.bias.double()
        norm.bias.copy_(beta + gamma * step / old[1])
        norm.weight.copy_(gamma * spread / old[1])
        mean.copy_(old[0] + step)
        variance.copy_(torch.where(moves, new, variance.double()))


def settle_norms(model: nn.Module, batches: Iterable[Batch]) -> None:
    """Set running statistics to those of the images, and rescale so that the outputs stay equal.

        μ' = mean(x),  σ'² = var(x),  γ' = γ σ' / σ,  β' = β + γ (μ' - μ) / σ

    Fitted weights change the distribution of a norm's inputs, so that without this, outputs in train mode would differ
    from eval mode when fine-tuning starts, and recalibration would undo the fit. Norms without a scale, and norms that
    share one, are unchanged. batches: images as `Batch` values.
    """
    every = {n: m for n, m in model.named_modules() if isinstance(m, _BatchNorm) and m.running_mean is not None}
    owners = Counter(id(t) for m in every.values() for t in (*m.parameters(), *m.buffers()))
    alone = {n: m for n, m in every.items() if all(owners[id(t)] == 1 for t in (*m.parameters(), *m.buffers()))}
    norms = {name: norm for name, norm in alone.items() if norm.affine}
    moments = {name: _Moments(norm) for name, norm in norms.items()}
    with untouched(model), torch.no_grad(), ExitStack() as stack:
        for name, seen in moments.items():
            stack.enter_context(hooked(model, (name, "input"), seen))
        for batch in batches:
            model(*batch.args, **batch.kwargs)
    for seen in moments.values():
        seen.settle()
