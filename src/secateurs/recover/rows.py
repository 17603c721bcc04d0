"""Rows of a layer's least-squares problem: its inputs and target outputs at sampled positions of every image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from secateurs.recover.layers import Layer
from secateurs.recover.replay import Recording, Replay, Step

aten = torch.ops.aten


@dataclass(eq=False)
class Rows:
    """The rows of a layer's least-squares problem.

    x: inputs [rows, groups, columns]. now, target: outputs [rows, outputs] at the compared place, of the small and of
    the dense network. held: marks the rows of held-out images.
    """

    x: Tensor
    now: Tensor
    target: Tensor
    held: Tensor


def shape_of_problem(step: Step, weight: Tensor) -> tuple[int, int, int]:
    """Return the numbers of groups, of columns in each, and of outputs of the layer."""
    if step.func is aten.convolution.default:
        groups = step.args[8]
        if step.args[6]:
            return groups, weight[0, 0].numel() * (weight.shape[0] // groups), weight.shape[1] * groups
        return groups, weight[0].numel(), weight.shape[0]
    outputs, columns = weight.shape if step.func is aten.linear.default else weight.t().shape
    return 1, columns, outputs


def gather(
    layer: Layer, small: Replay, dense: Replay, weight: Tensor, *, rows: int, seed: int, advance: int | None
) -> Rows:
    """Run both networks up to the layer's compared place on all batches; sample about `rows` rows over all images.

    advance: step at which the dense network's live values are stored on the way.
    """
    generator = torch.Generator().manual_seed(seed)
    each = rows / sum(_entries(recording, layer) for recording in small.recordings)
    parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    stop = layer.made + 1
    wide = torch.promote_types(weight.dtype, torch.float32)
    for number in range(len(small.live)):
        mine = small.read(number, stop, (layer.x, layer.place))
        if advance is None:
            theirs = dense.read(number, stop, (layer.place,))
        else:
            theirs = dense.advance(number, advance, (layer.place,))
        target = theirs[layer.place].index_select(layer.axis, layer.keep.to(weight.device))
        seen = (mine[layer.x].to(wide), mine[layer.place].to(wide), target.to(wide))
        step = small.recordings[number].steps[layer.at]
        pick = _convolved if step.func is aten.convolution.default else _projected
        parts.append(pick(step, seen, weight.shape[2:], each, generator))
    if advance is not None:
        dense.arrive(advance)
    return Rows(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _entries(recording: Recording, layer: Layer) -> int:
    """Return the number of images of a convolution's input, or of rows of a linear layer's."""
    shape = recording.shapes[layer.x]
    return shape[0] if recording.steps[layer.at].func is aten.convolution.default else math.prod(shape[:-1])


def _projected(
    step: Step, seen: tuple[Tensor, Tensor, Tensor], kernel: torch.Size, each: float, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return rows of a linear layer: inputs, present outputs, target outputs, and the mark of held-out rows."""
    flat = [t.reshape(-1, t.shape[-1]) for t in seen]
    chosen = _choose(len(flat[0]), math.ceil(each * len(flat[0])), generator, flat[0].device)
    x, now, target = (t[chosen] for t in flat)
    return x.unsqueeze(1), now, target, _held(len(chosen), 1, x.device)


def _convolved(
    step: Step, seen: tuple[Tensor, Tensor, Tensor], kernel: torch.Size, each: float, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return rows of a convolution: equal positions of every image, or one of some images if `each` is below 1."""
    images = _choose(len(seen[0]), math.ceil(each * len(seen[0])), generator, seen[0].device)
    x, now, target = seen if len(images) == len(seen[0]) else (t[images] for t in seen)
    sizes = now.shape[2:]
    chosen = _choose(sizes.numel(), math.ceil(each), generator, x.device)
    columns = patches(step, x, kernel, sizes, chosen)
    outs = [t.flatten(2)[:, :, chosen].transpose(1, 2).flatten(0, 1) for t in (now, target)]
    return columns, outs[0], outs[1], _held(len(x), len(chosen), x.device)


def _choose(count: int, each: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """Choose positions: all, or a sample without replacement."""
    if each >= count:
        return torch.arange(count, device=device)
    return torch.randperm(count, generator=generator)[:each].sort().values.to(device)


def _held(images: int, each: int, device: torch.device) -> Tensor:
    """Mark the last quarter of a batch's images as held out."""
    return (torch.arange(images, device=device) >= images - images // 4).repeat_interleave(each)


def patches(step: Step, x: Tensor, kernel: torch.Size, sizes: torch.Size, chosen: Tensor) -> Tensor:
    """Unfold the input of a convolution of any dimension at the chosen output positions: [rows, groups, columns]."""
    _, _, _, stride, padding, dilation, transposed, _, groups = step.args
    dims, device = len(kernel), x.device
    stride, padding, dilation = (list(v) * dims if len(v) == 1 else list(v) for v in (stride, padding, dilation))
    flat, valid = torch.zeros(1, dtype=torch.long, device=device), torch.ones(1, dtype=torch.bool, device=device)
    where = torch.unravel_index(chosen, tuple(sizes))
    offsets = torch.tensor(list(product(*map(range, kernel))), device=device).view(-1, dims)
    for d in range(dims):
        if transposed:
            reach = where[d][:, None] + padding[d] - offsets[:, d] * dilation[d]
            inside = reach % stride[d] == 0
            reach = reach // stride[d]
        else:
            reach = where[d][:, None] * stride[d] - padding[d] + offsets[:, d] * dilation[d]
            inside = torch.ones_like(reach, dtype=torch.bool)
        inside &= (reach >= 0) & (reach < x.shape[2 + d])
        flat, valid = flat * x.shape[2 + d] + reach, valid & inside
    last = x.shape[2:].numel()
    index = torch.where(valid, flat, last)  # [positions, kernel]; the entry after the last is zero
    padded = torch.nn.functional.pad(x.flatten(2), (0, 1))
    seen = padded[:, :, index.flatten()].unflatten(2, index.shape)  # [n, c, positions, kernel]
    return seen.transpose(1, 2).flatten(0, 1).unflatten(1, (groups, -1)).flatten(2)
