"""Solve every layer against the dense network, in forward order, by least squares on a few images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from secateurs.recover.layers import Layer, add_to, find_layers, follow, matrix, root_of, scale_of
from secateurs.recover.replay import Recording, Replay
from secateurs.recover.rows import gather, shape_of_problem
from secateurs.recover.solve import Change, solve
from secateurs.running.batches import Batch
from secateurs.surgery.plan import Plan


@dataclass(frozen=True)
class Reconstruct:
    """Least squares."""

    sweeps: int = 2
    rounds: int = 5
    memory: int = 2**30
    seed: int = 0

    def run(self, small: nn.Module, dense: nn.Module, plan: Plan, batches: Sequence[Batch]) -> None:
        for sweep in range(self.sweeps):
            self._sweep(small, dense, plan, batches, sweep)

    def _sweep(self, model: nn.Module, teacher: nn.Module, plan: Plan, batches: Sequence[Batch], sweep: int) -> None:
        small, dense = Replay.start(model, batches), Replay.start(teacher, batches)
        recording = small.recordings[0]
        layers = find_layers(recording, dense.recordings[0], model, plan)
        for number, layer in enumerate(layers):
            for replay in (small, dense):
                self._advance(replay, layer.at)
            weight = follow(recording, layer.weight, recording.outside[root_of(recording, layer.weight)])
            step = recording.steps[layer.at]
            groups, columns, outputs = shape_of_problem(step, weight)
            rows = min(max(1 << 16, 64 * columns), self.memory // (4 * (groups * columns + 4 * outputs)))
            found = gather(
                layer, small, dense, weight, rows=rows, seed=self.seed + number + 1000 * sweep, advance=None
            )
            change = solve(
                found, scale_of(layer, recording), bias=layer.bias is not None, clamp=layer.clamp, rounds=self.rounds
            )
            if change is not None:
                _write(layer, recording, weight, change)

    def _advance(self, replay: Replay, to: int) -> None:
        if replay.at < to and all(r.divides(to) for r in set(replay.recordings)):
            for number in range(len(replay.live)):
                replay.advance(number, to)
            replay.arrive(to)


@torch.no_grad()
def _write(layer: Layer, recording: Recording, weight: torch.Tensor, change: Change) -> None:
    """Add the change to the layer's weight, and its shift to the bias of the layer or of the norm behind it."""
    add_to(recording.steps[layer.at], weight, change.weight)
    if layer.bias is not None:
        value, upto = layer.bias
        bias = follow(recording, value, recording.outside[root_of(recording, value)])
        bias.add_((change.bias * scale_of(layer, recording, upto).to(change.bias.device)).to(bias.dtype))
