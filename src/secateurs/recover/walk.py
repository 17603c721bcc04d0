"""Visit the layers of a small network in forward order, and correct each from its inputs and target outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from secateurs.errors import InputError, check_seed
from secateurs.recover.layers import Layer, add_to, find_layers, follow, matrix, root_of, scale_of
from secateurs.recover.recovery import Pair
from secateurs.recover.replay import Recording, Replay
from secateurs.recover.rows import Rows, gather, shape_of_problem
from secateurs.recover.solve import Change


@dataclass(frozen=True, eq=False)
class Seen:
    """One layer when it is visited: its rows, its weight [groups, outputs / groups, columns], and its output scale."""

    layer: Layer
    rows: Rows
    weight: Tensor
    scale: Tensor


@dataclass(frozen=True)
class Sampling:
    """Number of rows that a layer's least squares uses: `rows`, or `per_column` for each column, within `memory` bytes.

    determined: skip a layer if the images give no more rows than it has columns.
    """

    rows: int = 1 << 15
    per_column: int = 64
    memory: int = 1 << 30
    seed: int = 0
    determined: bool = True

    def __post_init__(self) -> None:
        """Refuse an invalid seed."""
        check_seed(self.seed)

    def count(self, groups: int, columns: int, outputs: int) -> int:
        """Rows for a layer of this size."""
        wanted = max(self.rows, self.per_column * columns)
        return max(1, min(wanted, self.memory // (4 * (2 * groups * columns + 4 * outputs))))


def walk(pair: Pair, sampling: Sampling, fit: Callable[[Seen], Change | None], title: str) -> list[str]:
    """Visit every layer once, add the correction that `fit` returns, and return the names of the changed layers.

    InputError if nothing can be changed because the images give too few rows.
    """
    small, dense = Replay.start(pair.small, pair.batches), Replay.start(pair.dense, pair.batches)
    recording = _matching(small, dense)
    layers = find_layers(recording, dense.recordings[0], pair.small, pair.plan)
    changed: list[str] = []
    short: list[tuple[str, int, int]] = []
    for number, layer in enumerate(layers):
        _advance(small, layer.at)
        _advance(dense, layer.at)
        following = layers[number + 1].at if number + 1 < len(layers) else layer.made + 1
        onward = following if layer.made < following and _divides(dense, following) else None
        weight = follow(recording, layer.weight, recording.outside[_root(recording, layer.weight)])
        step = recording.steps[layer.at]
        size = shape_of_problem(step, weight)
        seed = sampling.seed + number
        rows = gather(layer, small, dense, weight, rows=sampling.count(*size), seed=seed, advance=onward)
        if sampling.determined and len(rows.x) <= size[1]:
            short.append((layer.name, size[1], len(rows.x)))
            continue
        change = fit(Seen(layer, rows, matrix(step, weight.detach()), scale_of(layer, recording)))
        if change is None:
            pair.say(f"{title} {number + 1}/{len(layers)} {layer.name}: as it is")
            continue
        _write(layer, recording, weight, change)
        changed.append(layer.name)
        pair.say(f"{title} {number + 1}/{len(layers)} {layer.name}: error {change.before:.4g} -> {change.after:.4g}")
    if short and not changed:
        _refuse(short, pair)
    for name, columns, found in short:
        pair.say(f"{title} {name}: as it is, {found} rows for {columns} columns")
    return changed


def _matching(small: Replay, dense: Replay) -> Recording:
    """Return the recording of the small network, after checking that the dense one runs the same operators."""
    for mine, theirs in zip(small.recordings, dense.recordings, strict=True):
        if mine.funcs != theirs.funcs:
            message = (
                "the small and the dense network do not run the same operators in the same order. Layers are compared "
                "place by place. Pass the dense network that the small one was cut from."
            )
            raise InputError(message)
    return small.recordings[0]


def _refuse(short: Sequence[tuple[str, int, int]], pair: Pair) -> None:
    """Raise InputError with the number of images that would be enough."""
    images = sum(batch.size for batch in pair.batches)
    name, columns, found = min(short, key=lambda one: one[1] / one[2])
    message = (
        f"{images} images are too few: {name} has {columns} columns to solve for, and they give {found} rows. "
        f"Least squares needs more rows than columns. Pass {-(-images * (columns + 1) // found)} images or more."
    )
    raise InputError(message)


def _divides(replay: Replay, at: int) -> bool:
    return all(recording.divides(at) for recording in set(replay.recordings))


def _advance(replay: Replay, to: int) -> None:
    """Advance all batches to step `to`, if they can stop there."""
    if replay.at < to and _divides(replay, to):
        for number in range(len(replay.live)):
            replay.advance(number, to)
        replay.arrive(to)


def _root(recording: Recording, value: int) -> int:
    root = root_of(recording, value)
    assert root is not None  # noqa: S101 - find_layers gives only such
    return root


@torch.no_grad()
def _write(layer: Layer, recording: Recording, weight: Tensor, change: Change) -> None:
    """Add the change to the layer's weight, and its shift to the bias of the layer or of the following norm."""
    add_to(recording.steps[layer.at], weight, change.weight)
    if layer.bias is not None:
        value, upto = layer.bias
        bias = follow(recording, value, recording.outside[_root(recording, value)])
        bias.add_((change.bias * scale_of(layer, recording, upto).to(change.bias.device)).to(bias.dtype))
