"""Export to ONNX by torch.onnx, with an error that names an operator without ONNX form."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from secateurs.deploy.torch_form import doubled, free_batch
from secateurs.errors import DeviceError
from secateurs.running.compare import Call
from secateurs.running.nested import find_tensors

OPSET = 18
"""The ONNX operator set that is written, unless another is asked for."""


def to_onnx(
    model: nn.Module, call: Call, *, dynamic_batch: bool = False, opset: int = OPSET, optimize: bool = True
) -> Any:
    """Export a model in eval mode to an onnx.ModelProto.

    dynamic_batch: the first dimension of every input tensor is free, named "batch". optimize: constants are folded;
    without it every parameter and buffer stays an initialiser of its own name.
    Raises DeviceError, naming the operator, if the model cannot be exported.
    """
    args, kwargs = doubled(call) if dynamic_batch else call
    shapes = free_batch(args, kwargs) if dynamic_batch else None
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                model,
                args,
                kwargs=kwargs or None,
                dynamo=True,
                opset_version=opset,
                dynamic_shapes=shapes,
                optimize=optimize,
                verbose=False,
            )
    except Exception as cause:
        raise DeviceError(_told(cause)) from cause
    if program is None:
        raise DeviceError("torch.onnx.export returned nothing. Report the model.")
    return program.model_proto


def feeds(names: Sequence[str], call: Call) -> dict[str, Any]:
    """Return input name -> array, for the tensors of a call."""
    tensors = find_tensors(call)
    if len(tensors) != len(names):
        message = (
            f"the exported model takes {len(names)} inputs ({', '.join(names)}), and the example has {len(tensors)} "
            "tensors. Pass example inputs that the forward uses, each once."
        )
        raise DeviceError(message)
    return {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in zip(names, tensors, strict=True)}


@contextmanager
def _quiet() -> Generator[None]:
    """Silence the exporter's warnings and logging; errors are raised all the same."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _told(cause: BaseException) -> str:
    """Return the name of the operator without ONNX form, or else the first line of the error."""
    texts: list[str] = []
    seen: BaseException | None = cause
    while seen is not None:
        texts.append(str(seen))
        seen = seen.__cause__ or seen.__context__
    everything = "\n".join(texts)
    # "No ONNX function found for <OpOverload(op='aten.i0', overload='default')>"
    operator = re.search(r"No ONNX function found for <OpOverload\(op='([^']+)'", everything)
    if operator:
        return (
            f"the operator {operator[1]} has no ONNX form, so the model runs neither in ONNX Runtime nor in OpenVINO. "
            "Write it with other operators, or use the runtime 'eager' or 'compile'."
        )
    lines = [line.strip() for line in everything.splitlines() if line.strip()]
    reason = next((line for line in reversed(lines) if "Error" in line or "error" in line), lines[-1] if lines else "")
    return (
        f"the model cannot be exported by torch: {reason} "
        "What torch.export cannot capture, no runtime but 'eager' and 'compile' can run."
    )
