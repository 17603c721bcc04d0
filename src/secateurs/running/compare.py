"""Run a model on example inputs, and compare the (nested) outputs of two models."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from secateurs.errors import TraceError
from secateurs.running.nested import find_tensors, map_tensors
from secateurs.running.untouched import untouched

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments of one forward."""


def moved(call: Call, dtype: torch.dtype, device: torch.device) -> Call:
    """Copy nested inputs to a device, floating tensors also to a dtype."""
    return map_tensors(call, lambda t: t.to(device, dtype) if t.is_floating_point() else t.to(device))


def output_of(model: nn.Module, call: Call) -> Any:
    """Run a model in eval mode on copies of the inputs.

    In-place changes of the inputs do not reach the next run; random states are restored, so that the next run draws the
    same noise.
    """
    args, kwargs = map_tensors(call, torch.clone)
    with untouched(model), torch.no_grad():
        return model(*args, **kwargs)


def checked_output_of(model: nn.Module, call: Call, dtype: torch.dtype) -> Any:
    """Run the unpruned model; TraceError if it fails or returns no tensor, so that this is not attributed to a plan."""
    try:
        output = output_of(model, call)
    except Exception as error:
        message = (
            f"the model did not run in {dtype} on these inputs: {error}. Its forward may fix a type of its own. "
            "Verify in the type it is made for: verify(..., dtype=torch.float32)."
        )
        raise TraceError(message) from error
    if not find_tensors(output):
        message = (
            f"the model's output ({type(output).__name__}) holds no tensor. There is nothing to compare. "
            "Pass a model that returns tensors, nested as you like."
        )
        raise TraceError(message)
    return output


def relative_error(found: Any, expected: Any) -> float:
    """Return the largest max|found - expected| / max|expected| over the tensors of two outputs.

    Outputs of different type or shape have an infinite error; two outputs of zeros an error of 0. NaN and infinities
    have to be at the same positions in both.

    >>> relative_error({"y": torch.tensor([1.0, 2.0])}, {"y": torch.tensor([1.0, 4.0])})
    0.5
    >>> relative_error(torch.zeros(2), torch.zeros(3))
    inf
    """
    left, right = find_tensors(found), find_tensors(expected)
    if len(left) != len(right):
        return float("inf")
    return max((_error(a, b) for a, b in zip(left, right, strict=True)), default=0.0)


def _error(found: Tensor, expected: Tensor) -> float:
    if found.shape != expected.shape:
        return float("inf")
    wide = torch.complex128 if expected.is_complex() or found.is_complex() else torch.float64
    a, b = found.detach().to("cpu", wide), expected.detach().to("cpu", wide)
    finite = torch.isfinite(b)
    if not torch.equal(finite, torch.isfinite(a)) or not torch.allclose(a[~finite], b[~finite], equal_nan=True):
        return float("inf")
    if not finite.any():
        return 0.0
    worst, scale = (a[finite] - b[finite]).abs().max().item(), b[finite].abs().max().item()
    return worst / scale if worst and scale else (float("inf") if worst else 0.0)
