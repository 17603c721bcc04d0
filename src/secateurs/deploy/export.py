"""Export a network to a file that runs without this library; compare it with eager PyTorch and measure it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, final

import torch
from torch import nn

from secateurs.deploy.device import Device
from secateurs.deploy.executorch_form import LARGEST_BATCH, to_executorch
from secateurs.deploy.onnx_form import OPSET, to_onnx
from secateurs.deploy.quantise import quantised
from secateurs.deploy.runtimes import (
    Call,
    Program,
    check_there,
    executorch_program,
    onnx_program,
    openvino_program,
    prepared,
)
from secateurs.deploy.stopwatch import Measurement
from secateurs.deploy.torch_form import batch_of, captured, doubled, repeated
from secateurs.errors import DeviceError, near
from secateurs.running.compare import output_of, relative_error
from secateurs.running.nested import as_call
from secateurs.store.files import flush_directory, flush_file

Format = Literal["onnx", "openvino", "executorch", "torch-export"]
SUFFIX = {"onnx": ".onnx", "openvino": ".xml", "executorch": ".pte", "torch-export": ".pt2"}
RUNTIME = {"onnx": "onnxruntime", "openvino": "openvino", "executorch": "executorch", "torch-export": "eager"}
"""Format -> the runtime that executes it, for measurements."""

TOLERANCE = 1e-3
"""Relative error up to which an exported float32 network is accepted as equal to the eager one."""


@final
@dataclass(frozen=True)
class Exported:
    """An exported file: its path, its size, and its deviation from the eager model.

    to: format. opset: the ONNX operator set. int8: True if quantised. error: largest deviation from the eager
    outputs on the example inputs, relative to the largest output. bytes: size of all its files. agreement: for int8,
    the share of samples whose largest output is at the same position. latency: in seconds, on the device. batch:
    the largest batch size of an ExecuTorch file. outside: its operators that XNNPACK does not run.
    """

    path: Path
    to: str
    error: float
    bytes: int
    int8: bool = False
    opset: int | None = None
    agreement: float | None = None
    latency: Measurement | None = None
    batch: int | None = None
    outside: tuple[str, ...] = ()

    def __str__(self) -> str:
        kind = f"{self.to}{f' (opset {self.opset})' if self.opset else ''}{', int8' if self.int8 else ''}"
        words = [f"{self.path}: {kind}, {self.bytes / 2**20:.2f} MiB, relative error to eager {self.error:.1e}"]
        words += [] if self.agreement is None else [f"same class as eager in {self.agreement:.1%} of the samples"]
        words += [] if self.batch is None else [f"up to {self.batch} samples"]
        words += [f"not run by XNNPACK: {', '.join(self.outside)}"] if self.outside else []
        return "\n".join(["; ".join(words), *([] if self.latency is None else [str(self.latency)])])


def export(
    model: nn.Module,
    example_inputs: Any,
    path: str | Path,
    *,
    to: Format = "onnx",
    dynamic_batch: bool | int = False,
    int8: Iterable[Any] | None = None,
    device: Device | None = None,
) -> Exported:
    """Write a model, pruned or not, to a file that needs neither this library nor the model's code.

    path: of the file to write. example_inputs: as for `trace`. to: "onnx" (opset 18), "openvino" (.xml and .bin),
    "executorch" (.pte, for its CPU kernels XNNPACK) or "torch-export" (torch.export.load). dynamic_batch: any batch
    size; otherwise that of the example inputs. ExecuTorch plans memory for the largest: 64 samples, or the number that
    is given here. int8: calibration batches (inputs, or inputs and targets); weights and activations are quantised to 8
    bits by ONNX Runtime's static quantiser. device: the `Device` to measure the file on.

    The file is run and its outputs are compared with the eager model's; if the batch is dynamic, also with more
    samples. Raises DeviceError if the model or an operator cannot be exported, if the outputs differ (relative error
    above 1e-3; for int8 the deviation is only reported), or if a package is missing. Files are written next to `path`,
    checked and then renamed: after an error or a killed process, an earlier file at `path` is intact.
    """
    if to not in SUFFIX:
        raise DeviceError(f"no format is called {to!r}: {near(str(to), SUFFIX)}")
    if int8 is not None and to in ("executorch", "torch-export"):
        raise DeviceError(f"int8 is written as ONNX or OpenVINO, not as {to}. Use to='onnx'.")
    check_there(RUNTIME[to])
    if int8 is not None:
        check_there("onnxruntime")
    target = _target(path, to)
    chosen = Device(RUNTIME[to]) if device is None else device  # pyright: ignore[reportArgumentType]
    if to == "executorch" and chosen.dtype != "float32":
        raise DeviceError(f"executorch files are float32, and the device's dtype is {chosen.dtype}. Leave it out.")
    copy, call = prepared(model, as_call(example_inputs), chosen.setting, "cpu")
    most = _largest(call, dynamic_batch, to)
    with TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as aside:
        artifact = _Artifact(Path(aside, target.name), to, bool(dynamic_batch), most, int8 is not None)
        outside = _write(artifact, copy, call, int8)
        exported = replace(_checked(artifact, copy, call, chosen), batch=most, outside=outside)
        for file in reversed(artifact.files):  # OpenVINO's .xml last: it is the file that users open
            _put(file, target.parent)
    return replace(exported, path=target)


def _target(path: str | Path, to: str) -> Path:
    """Path of the file, with the format's suffix, in a folder that exists."""
    target = Path(path)
    if target.suffix != SUFFIX[to]:
        target = target.with_name(target.name + SUFFIX[to])
    if not target.parent.is_dir():
        raise DeviceError(f"{target.parent} is no folder. Make it first, or choose another path.")
    return target


def _largest(call: Call, wanted: bool | int, to: str) -> int | None:  # noqa: FBT001 (the argument as it was given)
    """Largest batch size of the file; None if it is fixed or has no limit."""
    given = batch_of(call)
    if not wanted or to != "executorch":
        return None
    if wanted is True:
        return max(LARGEST_BATCH, given)
    if wanted < max(2, given):
        raise DeviceError(f"dynamic_batch={wanted} is the largest batch size, and below 2 or the example's {given}.")
    return wanted


def _put(file: Path, directory: Path) -> None:
    """Move a finished file into a directory, and flush the directory to disk."""
    try:
        flush_file(file)
        file.replace(directory / file.name)
        flush_directory(directory)
    except OSError as cause:
        raise DeviceError(
            f"{directory / file.name} cannot be written: {cause.strerror}. Choose another path."
        ) from cause


@final
@dataclass(frozen=True)
class _Artifact:
    """Everything that an export writes, collected before the first file is made."""

    path: Path
    to: str
    dynamic: bool
    most: int | None
    int8: bool

    @property
    def files(self) -> tuple[Path, ...]:
        """All of its files."""
        return (self.path, self.path.with_suffix(".bin")) if self.to == "openvino" else (self.path,)


def _write(artifact: _Artifact, model: nn.Module, call: Call, int8: Iterable[Any] | None) -> tuple[str, ...]:
    """Write the files; return the operators that the runtime's fast kernels do not cover, where that is known."""
    if artifact.to == "torch-export":
        program = captured(model, call, dynamic_batch=artifact.dynamic, most=artifact.most)
        torch.export.save(program, artifact.path)
        return ()
    if artifact.to == "executorch":
        lowered = to_executorch(model, call, most=artifact.most)
        artifact.path.write_bytes(lowered.content)
        return lowered.outside
    proto = to_onnx(model, call, dynamic_batch=artifact.dynamic)
    if int8 is not None:
        proto = quantised(proto, int8)
    if artifact.to == "onnx":
        artifact.path.write_bytes(proto.SerializeToString())
        return ()
    import openvino as ov  # pyright: ignore[reportMissingImports] (an extra of its own)

    ov.save_model(ov.Core().read_model(proto.SerializeToString()), str(artifact.path), compress_to_fp16=False)
    return ()


def opened(artifact: _Artifact, call: Call, device: Device) -> Program:
    """Load an exported file as a program."""
    loads = {"onnx": onnx_program, "openvino": openvino_program, "executorch": executorch_program}
    load = loads.get(artifact.to)
    if load is not None:
        return load(str(artifact.path), call, device.setting)
    module, (args, kwargs) = torch.export.load(artifact.path).module(), call

    def run() -> Any:
        with torch.inference_mode():
            return module(*args, **kwargs)

    return Program(run)


def _checked(artifact: _Artifact, model: nn.Module, call: Call, device: Device) -> Exported:
    """Compare the file with eager, and measure it."""
    calls = [call, doubled(call)] if artifact.dynamic else [call]
    calls = calls if artifact.most is None else [call, repeated(call, artifact.most)]
    programs = [opened(artifact, given, device) for given in calls]
    error, agreement = 0.0, None
    for given, program in zip(calls, programs, strict=True):
        found, expected = program.outputs(), output_of(model, given)
        error = max(error, relative_error(found, expected))
        if artifact.int8 and isinstance(expected, torch.Tensor) and expected.dim() == 2:
            agreement = float((found[0].argmax(1) == expected.argmax(1)).float().mean())
    if error > TOLERANCE and not artifact.int8 and device.dtype == "float32":
        raise DeviceError(
            f"the exported {artifact.to} model differs from eager by {error:.1e} of its largest output, and "
            f"{TOLERANCE:.0e} is what rounding explains. Nothing was kept. Report the model, or take another format."
        )
    latency = device.race(programs[:1], seconds=1.0)[0]
    size = sum(file.stat().st_size for file in artifact.files)
    opset = OPSET if artifact.to in ("onnx", "openvino") else None
    return Exported(artifact.path, artifact.to, error, size, artifact.int8, opset, agreement, latency)
