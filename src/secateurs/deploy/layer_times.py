"""Profile a network on a device: time of each node or layer, the slowest first."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import nn

from secateurs.deploy.device import Device
from secateurs.deploy.runtimes import prepared
from secateurs.errors import DeviceError


@final
@dataclass(frozen=True)
class LayerTime:
    """Seconds that a node (of a runtime's graph) or a layer (a module without children) takes in one forward pass.

    name: of the node or module. kind: its operator or class. seconds: the median over runs.
    """

    name: str
    kind: str
    seconds: float


@final
@dataclass(frozen=True)
class Profile:
    """Time of each of the `layers` in one forward pass, slowest first; device: a description of the device."""

    layers: tuple[LayerTime, ...]
    device: str

    @property
    def seconds(self) -> float:
        """Sum over all layers."""
        return sum(layer.seconds for layer in self.layers)

    def by_kind(self) -> dict[str, float]:
        """Seconds by kind of operator, largest first."""
        found: dict[str, float] = {}
        for layer in self.layers:
            found[layer.kind] = found.get(layer.kind, 0.0) + layer.seconds
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    def table(self, rows: int = 20) -> str:
        """The slowest `rows` layers as text.

        >>> print(Profile((LayerTime("conv", "Conv", 0.003), LayerTime("fc", "Gemm", 0.001)), "onnxruntime").table())
        3.000 ms   75.0 %  Conv  conv
        1.000 ms   25.0 %  Gemm  fc
        """
        wide = max((len(layer.kind) for layer in self.layers[:rows]), default=0)
        lines = [
            f"{1e3 * layer.seconds:.3f} ms {layer.seconds / self.seconds:>7.1%}  {layer.kind:<{wide}}  {layer.name}"
            for layer in self.layers[:rows]
        ]
        rest = self.layers[rows:]
        more = [f"{1e3 * sum(r.seconds for r in rest):.3f} ms in {len(rest)} more"] if rest else []
        return "\n".join([*(line.replace("%", " %") for line in lines), *more])

    def picture(self, path: str | Path, rows: int = 20) -> None:
        """Draw the slowest `rows` layers as bars, into a PNG, SVG or PDF file; DeviceError without matplotlib."""
        try:
            from matplotlib.figure import Figure
        except ImportError as cause:
            raise DeviceError("a picture needs matplotlib: python -m pip install 'secateurs[report]'") from cause
        shown = self.layers[:rows][::-1]
        figure = Figure(figsize=(8, 0.28 * len(shown) + 1.2), layout="constrained")
        axes = figure.subplots()
        axes.barh([layer.name for layer in shown], [1e3 * layer.seconds for layer in shown], color="#3b7a57")
        axes.set_xlabel("milliseconds of one forward pass")
        axes.set_title(self.device, fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, dpi=150)


def profile(device: Device, model: nn.Module, example_inputs: Any, *, runs: int = 20) -> Profile:
    """Measure the time of every layer on a device, by the runtime's profiler or, in PyTorch, by timers around layers.

    "compile" fuses layers, so that this runtime is refused with DeviceError. The model is copied and not changed.
    """
    if "compile" in device.runtime:
        raise DeviceError(f"{device.runtime} fuses layers, so none has a time of its own. Profile 'eager' instead.")
    program = device.compile(model, example_inputs)
    with device.running():
        found = _by_module(device, model, example_inputs, runs) if program.profile is None else program.profile(runs)
    layers = [LayerTime(name, kind, seconds) for name, (kind, seconds) in found.items()]
    return Profile(tuple(sorted(layers, key=lambda layer: -layer.seconds)), device.name)


def _by_module(device: Device, model: nn.Module, example_inputs: Any, runs: int) -> dict[str, tuple[str, float]]:
    """Median seconds of every module without children."""
    on = "cuda" if device.runtime.startswith("cuda") else "cpu"
    copy, (args, kwargs) = prepared(model, device.inputs(example_inputs), device.setting, on)
    times: dict[str, list[float]] = {}
    started: dict[str, float] = {}

    def now() -> float:
        if on == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() if on == "cuda" or device.threads > 1 else time.process_time()

    def begin(name: str) -> Callable[..., None]:
        return lambda *_: started.__setitem__(name, now())

    def end(name: str) -> Callable[..., None]:
        return lambda *_: times.setdefault(name, []).append(now() - started[name])

    leaves = {name: module for name, module in copy.named_modules() if not [*module.children()]}
    for name, module in leaves.items():
        module.register_forward_pre_hook(begin(name))
        module.register_forward_hook(end(name))
    with torch.inference_mode():
        for _ in range(runs + 1):
            copy(*args, **kwargs)
    calls = {name: len(found) // (runs + 1) for name, found in times.items()}
    return {
        name: (type(leaves[name]).__name__, calls[name] * sorted(found[calls[name] :])[len(found[calls[name] :]) // 2])
        for name, found in times.items()
    }
