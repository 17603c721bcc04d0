"""Runtimes: functions that compile a model and its inputs into a program that runs one forward pass."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from secateurs.deploy.onnx_form import feeds, to_onnx
from secateurs.errors import DeviceError
from secateurs.running.compare import Call
from secateurs.running.nested import find_tensors, map_tensors
from secateurs.surgery.tensors import duplicate


@final
@dataclass(frozen=True)
class Setting:
    """Settings of a runtime: threads, precision and layout."""

    threads: int
    dtype: torch.dtype
    channels_last: bool


@final
@dataclass(frozen=True, eq=False)
class Program:
    """One compiled forward pass; `run` returns when the device is done. profile: node times, if available."""

    run: Callable[[], Any]
    profile: Callable[[int], dict[str, tuple[str, float]]] | None = None

    def outputs(self) -> list[Tensor]:
        """Run once; the outputs as tensors."""
        found = self.run()
        return find_tensors(map_arrays(found))


def map_arrays(value: Any) -> Any:
    """Convert the outputs of a runtime to tensors."""
    if isinstance(value, list | tuple) and not any(isinstance(v, Tensor) for v in value):
        return [torch.from_numpy(v.copy()) if hasattr(v, "__array__") else v for v in value]
    return value


def prepared(model: nn.Module, call: Call, setting: Setting, device: str) -> tuple[nn.Module, Call]:
    """A copy of the model, and of its inputs, in eval mode on a device, in a dtype and a memory format."""
    copy = duplicate(model).to(device, setting.dtype)
    for module in copy.modules():
        module.training = False
    layout = torch.channels_last if setting.channels_last else torch.contiguous_format

    def place(t: Tensor) -> Tensor:
        moved = t.detach().to(device, setting.dtype) if t.is_floating_point() else t.detach().to(device)
        return moved.contiguous(memory_format=layout) if moved.dim() == 4 else moved

    if setting.channels_last:
        copy = copy.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return copy, map_tensors(call, place)


def _torch(model: nn.Module, call: Call, setting: Setting, *, device: str, compiled: bool) -> Program:
    copy, (args, kwargs) = prepared(model, call, setting, device)
    forward: Callable[..., Any] = torch.compile(copy) if compiled else copy

    def run() -> Any:
        with torch.inference_mode():
            out = forward(*args, **kwargs)
        if device != "cpu":
            torch.cuda.synchronize()
        return out

    return Program(run)


def eager(model: nn.Module, call: Call, setting: Setting) -> Program:
    """Eager PyTorch on the CPU."""
    return _torch(model, call, setting, device="cpu", compiled=False)


def compiled(model: nn.Module, call: Call, setting: Setting) -> Program:
    """PyTorch on the CPU through torch.compile."""
    return _torch(model, call, setting, device="cpu", compiled=True)


def cuda(model: nn.Module, call: Call, setting: Setting) -> Program:
    """Eager PyTorch on an NVIDIA GPU."""
    return _torch(model, call, setting, device="cuda", compiled=False)


def cuda_compiled(model: nn.Module, call: Call, setting: Setting) -> Program:
    """PyTorch on an NVIDIA GPU through torch.compile."""
    return _torch(model, call, setting, device="cuda", compiled=True)


def onnxruntime(model: nn.Module, call: Call, setting: Setting) -> Program:
    """ONNX Runtime on the CPU."""
    copy, inputs = prepared(model, call, setting, "cpu")
    return onnx_program(to_onnx(copy, inputs), inputs, setting)


def onnx_program(model: Any, call: Call, setting: Setting) -> Program:
    """Load an ONNX model (a ModelProto, or a path) into ONNX Runtime."""
    from secateurs.deploy.onnx_run import module_names, named, open_session, profile_nodes

    content, modules = (model, {}) if isinstance(model, str) else (model.SerializeToString(), module_names(model))
    session = open_session(content, setting.threads)
    given = feeds([i.name for i in session.get_inputs()], call)
    return Program(
        lambda: session.run(None, given),
        lambda runs: named(profile_nodes(content, setting.threads, given, runs), modules),
    )


def openvino(model: nn.Module, call: Call, setting: Setting) -> Program:
    """OpenVINO on the CPU."""
    copy, inputs = prepared(model, call, setting, "cpu")
    return openvino_program(to_onnx(copy, inputs), inputs, setting)


def openvino_program(model: Any, call: Call, setting: Setting) -> Program:
    """Load an ONNX model (a ModelProto), or an OpenVINO file, into OpenVINO."""
    import openvino as ov  # pyright: ignore[reportMissingImports] (an extra of its own)

    core = ov.Core()
    read = core.read_model(model if isinstance(model, str) else model.SerializeToString())
    hint = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}[setting.dtype]
    options = {
        "INFERENCE_NUM_THREADS": setting.threads,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": hint,
        "PERF_COUNT": True,
    }
    request = core.compile_model(read, "CPU", options).create_infer_request()
    given = [t.contiguous().numpy() for t in find_tensors(call)]

    def run() -> list[Any]:
        request.infer(given, share_inputs=True)
        return [request.get_output_tensor(k).data for k in range(len(request.model_outputs))]

    def nodes(runs: int) -> dict[str, tuple[str, float]]:
        total: dict[str, tuple[str, float]] = {}
        for _ in range(runs):
            run()
            for node in request.profiling_info:
                kind, before = total.get(node.node_name, (node.node_type, 0.0))
                total[node.node_name] = (kind, before + node.real_time.total_seconds() / runs)
        return {name: found for name, found in total.items() if found[1] > 0}

    return Program(run, nodes)


def executorch(model: nn.Module, call: Call, setting: Setting) -> Program:
    """ExecuTorch on the CPU, through XNNPACK."""
    copy, inputs = prepared(model, call, setting, "cpu")
    from secateurs.deploy.executorch_form import to_executorch

    return executorch_program(to_executorch(copy, inputs).content, inputs, setting)


def executorch_program(content: bytes | str, call: Call, setting: Setting) -> Program:
    """Load an ExecuTorch program (bytes, or a path to a .pte file)."""
    from secateurs.deploy.executorch_run import Method, profile_kernels

    method, given = Method(content, setting.threads), [t.contiguous() for t in find_tensors(call)]
    if len(given) != len(method.largest):
        raise DeviceError(
            f"the exported model takes {len(method.largest)} inputs, and the example has {len(given)} tensors. "
            "Pass example inputs that are tensors."
        )
    return Program(lambda: method(given), lambda runs: profile_kernels(content, setting.threads, given, runs))


RUNTIMES: Mapping[str, Callable[[nn.Module, Call, Setting], Program]] = {
    "eager": eager,
    "compile": compiled,
    "onnxruntime": onnxruntime,
    "openvino": openvino,
    "executorch": executorch,
    "cuda": cuda,
    "cuda-compile": cuda_compiled,
}
NEEDS: Mapping[str, tuple[str, ...]] = {
    "onnxruntime": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("onnx", "onnxscript", "openvino"),
    "executorch": ("executorch",),
}
"""Packages that a runtime needs besides torch."""


def check_there(runtime: str) -> None:
    """Refuse a runtime that is not available here; the message names the extra that installs it."""
    missing = [name for name in NEEDS.get(runtime, ()) if importlib.util.find_spec(name) is None]
    if missing:
        extra = "export" if runtime == "onnxruntime" else runtime
        message = (
            f"the runtime {runtime!r} needs {', '.join(missing)}, which is not installed. "
            f"Install it with: python -m pip install 'secateurs[{extra}]'"
        )
        raise DeviceError(message)
    if runtime.startswith("cuda") and not torch.cuda.is_available():
        message = f"the runtime {runtime!r} needs an NVIDIA GPU, and torch sees none here. Use a runtime of the CPU."
        raise DeviceError(message)
