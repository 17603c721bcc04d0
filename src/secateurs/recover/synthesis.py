"""Generate images from a network's BatchNorm statistics, for recovery without data."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from secateurs.errors import InputError, ModelError, expect
from secateurs.network import Network
from secateurs.running.hooks import hooked
from secateurs.running.process import all_or_nothing
from secateurs.running.replica import Replica
from secateurs.running.untouched import untouched


@all_or_nothing
def synthesise(
    model: nn.Module | Network,
    example_inputs: Tensor,
    *,
    images: int = 256,
    batch: int = 64,
    steps: int = 100,
    lr: float = 0.1,
    seed: int = 0,
) -> list[Tensor]:
    """Generate images whose BatchNorm statistics match the running ones, and return them as batches.

        minimise over x:   mean over norms and channels of  (μ(x) - μ̂)² / σ̂²  +  (σ(x) / σ̂ - 1)²

    μ, σ: mean and standard deviation of a norm's input over the images of a batch; μ̂, σ̂: the running ones. `steps`
    of Adam with rate `lr`, from standard normal noise of `seed`. example_inputs: one input [images, ...], which gives
    shape, dtype and device. images: how many in all, in batches of `batch`. The images do not look natural, but serve
    better than noise where activations matter: `recover(small, dense, synthesise(dense, x), plan=plan)` needs no data
    at all. Real images, even a few hundred, are better.

    Raises ModelError for a network without running statistics, InputError for inputs that are not one floating tensor.

    Source: Yin et al. 2020 (DeepInversion, arXiv:1912.08795), without its labels and image priors.

    >>> net = nn.Sequential(nn.BatchNorm1d(1))
    >>> net[0].running_mean.fill_(3.0), net[0].running_var.fill_(4.0)
    (tensor([3.]), tensor([4.]))
    >>> [x] = synthesise(net, torch.zeros(1, 1), images=64, steps=300)
    >>> round(x.mean().item(), 1), round(x.std().item(), 1)
    (3.0, 2.0)
    """
    expect("example_inputs", example_inputs, Tensor, "Pass one input tensor, such as torch.zeros(1, 3, 224, 224).")
    if not example_inputs.is_floating_point() or example_inputs.dim() < 1:
        message = (
            f"example_inputs is {example_inputs.dtype} of shape {tuple(example_inputs.shape)}. Images are found by "
            "gradients. Pass a floating-point tensor [images, ...]."
        )
        raise InputError(message)
    if images < 2 or batch < 2 or steps < 0 or not 0 < lr < float("inf"):
        message = (
            f"images={images}, batch={batch}, steps={steps}, lr={lr} make nothing. Statistics need two images or more "
            "in a batch; steps are counted, and lr is above 0."
        )
        raise InputError(message)
    network = Network.of(model).with_values
    replica = Replica(network, around=False).model
    norms = {n: m for n, m in replica.named_modules() if isinstance(m, _BatchNorm) and m.running_mean is not None}
    if not norms:
        message = (
            f"{type(network.model).__name__} has no BatchNorm with running statistics. Nothing says what its "
            "activations looked like in training. Pass real images to recover()."
        )
        raise ModelError(message)
    generator = torch.Generator().manual_seed(seed)
    sizes = [batch] * (images // batch) + ([images % batch] if images % batch > 1 else [])
    return [_matched(replica, norms, _noise(example_inputs, size, generator), steps, lr) for size in sizes or [images]]


def _noise(like: Tensor, size: int, generator: torch.Generator) -> Tensor:
    drawn = torch.randn(size, *like.shape[1:], generator=generator, dtype=torch.float64)
    return drawn.to(like.device, like.dtype)


def _matched(model: nn.Module, norms: dict[str, Any], x: Tensor, steps: int, lr: float) -> Tensor:
    """Optimise one batch of images until the norms' statistics match."""
    x.requires_grad_(True)
    optimizer = torch.optim.Adam([x], lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
    with untouched(model), torch.enable_grad(), ExitStack() as stack:
        seen: list[Tensor] = []
        for name, norm in norms.items():
            stack.enter_context(hooked(model, (name, "input"), _Distance(norm, seen)))
        for _ in range(steps):
            seen.clear()
            model(x)
            [x.grad] = torch.autograd.grad(torch.stack(seen).mean(), [x])
            optimizer.step()
            schedule.step()
    return x.detach()


class _Distance:
    """Record the distance of a norm's input from its running statistics; the input passes unchanged."""

    def __init__(self, norm: _BatchNorm, seen: list[Tensor]) -> None:
        assert norm.running_mean is not None  # noqa: S101 - only such norms are watched
        assert norm.running_var is not None  # noqa: S101
        self.mean, self.seen = norm.running_mean.detach(), seen
        self.spread = (norm.running_var.detach() + norm.eps).sqrt()

    def __call__(self, x: Tensor) -> Tensor:
        flat = x.transpose(0, 1).flatten(1)
        mean, spread = flat.mean(1), (flat.var(1) + torch.finfo(flat.dtype).tiny).sqrt()
        self.seen.append((((mean - self.mean) / self.spread).square() + (spread / self.spread - 1).square()).mean())
        return x
