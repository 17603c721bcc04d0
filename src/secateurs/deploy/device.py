"""`Device`: a runtime with its settings, as a value that measures latency."""

from __future__ import annotations

import platform
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, final

import torch
from torch import nn

from secateurs.allocate import Alignment
from secateurs.deploy.runtimes import RUNTIMES, Call, Program, Setting, check_there
from secateurs.deploy.stopwatch import Measurement, race
from secateurs.deploy.torch_form import repeated
from secateurs.errors import DeviceError, SecateursError, near
from secateurs.running.nested import as_call

if TYPE_CHECKING:
    from secateurs.deploy.layer_times import Profile

Runtime = Literal["eager", "compile", "onnxruntime", "openvino", "executorch", "cuda", "cuda-compile"]
Precision = Literal["float32", "float16", "bfloat16"]
Layout = Literal["nchw", "channels_last"]
OTHERS = ("onnxruntime", "openvino", "executorch")
"""Runtimes that are packages of their own, and not PyTorch's."""


@final
@dataclass(frozen=True)
class Device:
    """A runtime with its settings, on which latency is measured and networks are pruned to a latency.

    runtime: "eager" or "compile" (PyTorch on the CPU), "onnxruntime", "openvino", "executorch" (its CPU kernels,
    XNNPACK), "cuda" or "cuda-compile". threads: CPU threads. dtype: of weights and inputs; "executorch" has "float32".
    batch: samples of a forward pass; those of the example inputs if None. layout: "nchw", or "channels_last" for
    PyTorch's runtimes. table: a JSON file in which a latency budget stores the measured times of segments (layers with
    their fused operators), to be used again.

    Raises DeviceError for an unknown setting, and for a runtime that is not installed, with the extra that installs it.

    >>> Device("eager", threads=1)
    Device(runtime='eager', threads=1, dtype='float32', batch=None, layout='nchw', table=None)
    >>> Device("tensorrt")
    Traceback (most recent call last):
        ...
    secateurs.errors.DeviceError: no runtime is called 'tensorrt': Known: compile, cuda, cuda-compile, eager, ...
    """

    runtime: Runtime = "eager"
    _: KW_ONLY
    threads: int = 1
    dtype: Precision = "float32"
    batch: int | None = None
    layout: Layout = "nchw"
    table: str | Path | None = None

    def __post_init__(self) -> None:
        """Refuse unknown or unavailable settings, by name and value."""
        for what, value, known in (
            ("runtime", self.runtime, tuple(RUNTIMES)),
            ("dtype", self.dtype, ("float32", "float16", "bfloat16")),
            ("layout", self.layout, ("nchw", "channels_last")),
        ):
            if value not in known:
                raise DeviceError(f"no {what} is called {value!r}: {near(str(value), known)}")
        for what, number in (("threads", self.threads), ("batch", self.batch)):
            if number is not None and (not isinstance(number, int) or isinstance(number, bool) or number < 1):
                raise DeviceError(f"{what}={number!r} is no count. Give a whole number of at least 1.")
        if self.layout == "channels_last" and self.runtime in OTHERS:
            raise DeviceError(f"layout='channels_last' is PyTorch's; {self.runtime} chooses its own. Leave it out.")
        if self.runtime == "executorch" and self.dtype != "float32":
            raise DeviceError(f"dtype={self.dtype!r} is not lowered for executorch. Leave it out: float32.")
        check_there(self.runtime)

    @property
    def grid(self) -> Alignment:
        """Width multiples at which its kernels are fast: the blocks of its vector instructions, or of tensor cores."""
        if self.runtime.startswith("cuda"):
            return Alignment(((64, 32), (16, 8))) if self.dtype != "float32" else Alignment()
        wide = torch.backends.cpu.get_cpu_capability() == "AVX512"
        return Alignment(((32, 16), (16, 8))) if wide else Alignment(((16, 8),))

    @property
    def name(self) -> str:
        """Runtime, threads, dtype and processor as text."""
        words = [self.runtime if self.layout == "nchw" else f"{self.runtime} ({self.layout})"]
        if not self.runtime.startswith("cuda"):
            words.append(f"{self.threads} thread{'s' if self.threads > 1 else ''}")
        words += [self.dtype] + ([f"batch {self.batch}"] if self.batch else [])
        return ", ".join([*words, processor(self.runtime)])

    @property
    def key(self) -> dict[str, Any]:
        """Everything besides the network that a time depends on: devices with equal keys share measured times."""
        package = self.runtime if self.runtime in OTHERS else "torch"
        return {
            "runtime": self.runtime,
            "version": version(package),
            "processor": processor(self.runtime),
            "threads": self.threads,
            "dtype": self.dtype,
            "layout": self.layout,
            "batch": self.batch,
        }

    def compile(self, model: nn.Module, example_inputs: Any) -> Program:
        """Compile a copy of a model for this device; DeviceError if it cannot run it on `example_inputs`."""
        return self._program(model, self.inputs(example_inputs))

    def measure(
        self,
        model: nn.Module,
        example_inputs: Any,
        *,
        reference: nn.Module | None = None,
        seconds: float = 2.0,
    ) -> Measurement:
        """Measure one forward pass on `example_inputs` in eval mode.

        reference: measured alternately, which gives a reliable `ratio`. Takes about `seconds` after a warm-up, and up
        to six times as long if the spread is wide; if it stays wide, the measurement is not `steady`. The model is
        copied and not changed. Raises DeviceError if it cannot run here.
        """
        networks = [model] if reference is None else [reference, model]
        return self.compare(networks, example_inputs, seconds=seconds)[-1]

    def compare(
        self, models: Sequence[nn.Module], example_inputs: Any, *, seconds: float = 2.0
    ) -> tuple[Measurement, ...]:
        """Measure models alternately on `example_inputs`, for about `seconds` in all; ratios are to the first."""
        call = self.inputs(example_inputs)
        with self.running():
            return self.race([self._program(model, call) for model in models], seconds=seconds)

    def profile(self, model: nn.Module, example_inputs: Any, *, runs: int = 20) -> Profile:
        """Measure every layer on `example_inputs` in `runs` passes (see `secateurs.deploy.layer_times.profile`)."""
        from secateurs.deploy.layer_times import profile

        return profile(self, model, example_inputs, runs=runs)

    def race(self, programs: Sequence[Program], *, seconds: float = 2.0) -> tuple[Measurement, ...]:
        """Measure compiled programs alternately, for about `seconds` in all; ratios are to the first."""
        single = self.threads == 1 and not self.runtime.startswith("cuda")
        with self.running():
            return race([p.run for p in programs], seconds=seconds, single=single, conditions=self.name)

    def inputs(self, example_inputs: Any) -> Call:
        """Return the example inputs as (args, kwargs), repeated to the device's batch size."""
        call = as_call(example_inputs)
        if self.batch is None:
            return call
        return repeated(call, self.batch)

    @property
    def setting(self) -> Setting:
        """Settings of the runtime."""
        return Setting(self.threads, getattr(torch, self.dtype), self.layout == "channels_last")

    def _program(self, model: nn.Module, call: Call) -> Program:
        with self.running():
            program = RUNTIMES[self.runtime](model, call, self.setting)
            try:
                program.run()
            except SecateursError:
                raise
            except Exception as cause:
                reason = " ".join(str(cause).split())[:300]
                message = f"{self.runtime} cannot run the model on these inputs ({type(cause).__name__}): {reason}"
                raise DeviceError(message) from cause
        return program

    @contextmanager
    def running(self) -> Generator[None]:
        """Limit torch to the device's threads inside a `with` block."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def processor(runtime: str) -> str:
    """Name the accelerator, or the processor and its vector instructions."""
    if runtime.startswith("cuda"):
        return torch.cuda.get_device_name()
    model = platform.processor() or platform.machine()
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        lines = listing.read_text(encoding="utf-8").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    return f"{model} ({torch.backends.cpu.get_cpu_capability()})"
