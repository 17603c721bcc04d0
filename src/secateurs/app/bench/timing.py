"""Measure the latency of one forward pass, interleaved so that two networks can be compared."""

import math
import platform
import statistics
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import nn

BLOCK = 5e-3
"""Seconds that one sample should last, well above the resolution of the clock. Networks alternate sample by sample,
so that other load affects all of them alike."""

LEAST = 11
"""Fewest samples of each network."""


@final
@dataclass(frozen=True)
class Latency:
    """Latency of one forward pass in eval mode, in seconds: the median of `runs` forwards, and its quartiles.

    device: the processor or accelerator by name. threads: CPU threads it was allowed.
    """

    median: float
    low: float
    high: float
    runs: int
    device: str
    threads: int

    def __str__(self) -> str:
        """Milliseconds and conditions.

        >>> print(Latency(0.0021, 0.002, 0.0023, 90, "a CPU", 1))
        2.10 ms (quartiles 2.00-2.30, 90 runs, a CPU, 1 thread)
        """
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return (
            f"{1e3 * self.median:.2f} ms (quartiles {1e3 * self.low:.2f}-{1e3 * self.high:.2f}, {self.runs} runs, "
            f"{self.device}, {threads})"
        )


def latency(
    models: Sequence[nn.Module], example_inputs: tuple[Any, ...], *, threads: int = 1, seconds: float = 2.0
) -> tuple[Latency, ...]:
    """Time the models alternately on the same inputs, after a warm-up, for about `seconds` in all.

    A sample is the mean of as many forwards as fill `BLOCK` seconds, at least one, with the accelerator synchronised.
    Models run on the device of their parameters; modes and the process's thread count are restored.
    """
    device = next((p.device for p in models[0].parameters()), torch.device("cpu"))
    inputs = tuple(x.to(device) if isinstance(x, torch.Tensor) else x for x in example_inputs)
    samples: list[list[float]] = [[] for _ in models]
    with _prepared(models, threads), torch.inference_mode():
        repeats = [_repeats(model, inputs, device) for model in models]
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or len(samples[0]) < LEAST:
            for model, found, n in zip(models, samples, repeats, strict=True):
                found.append(_mean_time(model, inputs, device, n))
    name = device_name(device)
    return tuple(_summary(found, n, name, threads) for found, n in zip(samples, repeats, strict=True))


def device_name(device: torch.device | None = None) -> str:
    """Name the accelerator or processor that a measurement was taken on."""
    if device is not None and device.type == "cuda":
        return torch.cuda.get_device_name(device)
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        for line in listing.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@contextmanager
def _prepared(models: Sequence[nn.Module], threads: int) -> Generator[None]:
    """Run in eval mode with a number of threads; restore both afterwards."""
    before = torch.get_num_threads()
    modes = [(module, module.training) for model in models for module in model.modules()]
    for model in models:
        model.eval()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        for module, training in modes:
            module.training = training


def _repeats(model: nn.Module, inputs: tuple[Any, ...], device: torch.device) -> int:
    """Warm up for ten blocks or three forwards, whichever is longer; return how many forwards fill a block."""
    end = time.perf_counter() + 10 * BLOCK
    times = [_mean_time(model, inputs, device, 1) for _ in range(3)]
    while time.perf_counter() < end:
        times.append(_mean_time(model, inputs, device, 1))
    return max(1, math.ceil(BLOCK / statistics.median(times)))


def _mean_time(model: nn.Module, inputs: tuple[Any, ...], device: torch.device, repeats: int) -> float:
    _wait(device)
    start = time.perf_counter()
    for _ in range(repeats):
        model(*inputs)
    _wait(device)
    return (time.perf_counter() - start) / repeats


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _summary(samples: list[float], repeats: int, device: str, threads: int) -> Latency:
    low, median, high = statistics.quantiles(samples, n=4, method="inclusive")
    return Latency(median, low, high, len(samples) * repeats, device, threads)
