"""`Rig`: build pruned versions of a dense network on a device and measure them alternately with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from torch import nn

from secateurs.deploy.builder import Builder
from secateurs.deploy.device import Device
from secateurs.deploy.runtimes import Program
from secateurs.deploy.stopwatch import Measurement
from secateurs.errors import DeviceError
from secateurs.graph import Graph
from secateurs.surgery import Plan, apply
from secateurs.surgery.tensors import duplicate
from secateurs.types import Ints


@final
@dataclass(frozen=True)
class Timing:
    """Latency of the dense and the pruned network, measured alternately on one device.

    predicted: predicted seconds of the chosen widths, before any correction. calibration_error: mean relative error of
    predictions for random networks. gap: relative optimality gap of the chosen widths. plain_macs: MACs of the network
    that was chosen by MACs alone and meets the same target.
    """

    dense: Measurement
    pruned: Measurement
    predicted: float | None = None
    calibration_error: float | None = None
    gap: float | None = None
    plain_macs: int | None = None

    @property
    def ratio(self) -> float:
        """The pruned network's time over the dense one's."""
        return self.pruned.median / self.dense.median if self.pruned.ratio is None else self.pruned.ratio.value

    def __str__(self) -> str:
        words = f"latency: {1e3 * self.dense.median:.2f} -> {1e3 * self.pruned.median:.2f} ms ({self.ratio:.1%})"
        if self.predicted is not None:
            words += f", predicted {1e3 * self.predicted:.2f} ms"
        return f"{words}; {self.pruned.conditions}"


@final
class Rig:
    """A dense network compiled for a device, with which pruned versions are measured alternately."""

    def __init__(self, graph: Graph, model: nn.Module, device: Device, *, seconds: float = 2.0) -> None:
        """Compile the dense network; `seconds`: measuring time for one network."""
        self.graph, self.device, self.model, self._seconds = graph, device, model, seconds
        args, kwargs = graph.example
        self.example: Any = kwargs or args
        self._builder = Builder(device, model, self.example)
        self._dense = self._builder.program(model)

    def build(self, keep: Mapping[str, Ints]) -> Program:
        """Build and compile a pruned network."""
        plan = Plan.from_keep(self.graph, keep)
        return self._builder.program(apply(plan, duplicate(self.model), proof=False))

    def measure(self, programs: Sequence[Program], *, decide: bool = True) -> tuple[Measurement, ...]:
        """Measure the dense network and others alternately.

        Raises DeviceError if the machine is too busy for a decision; with `decide=False` (for fits) noise is accepted.
        """
        seconds = self._seconds * (1 + len(programs)) / 2
        found = self.device.race([self._dense, *programs], seconds=seconds)
        if decide and not all(one.steady for one in found[len(found) > 1 :]):
            worst = max(found, key=lambda one: one.doubt)
            raise DeviceError(
                f"the machine is too busy to measure on: after {worst.runs} runs one time is known to within "
                f"{worst.doubt:.0%} only, and nothing is decided on noise. Other work disturbed "
                f"{worst.disturbed:.0%} of the samples. Stop it, or measure later."
            )
        return found
