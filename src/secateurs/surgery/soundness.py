"""Is this a model that can be scored and cut? Asked before any work."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from secateurs.errors import ModelError
from secateurs.graph import check_model, check_values
from secateurs.surgery.tensors import named_tensors


def check_sound(model: Any) -> nn.Module:
    """Take a wrapper off and refuse a model without values, with NaN or infinite weights, or of a kind not prunable.

    Masks of -inf are common among buffers and harmless: only parameters and running statistics must be finite.
    """
    model = check_model(model)
    check_plain(model)
    check_values(named_tensors(model))
    return model


def check_plain(model: nn.Module) -> None:
    """Refuse tensors that are not plain memory of their own: shards, packed formats, and results of other tensors."""
    for name, tensor in named_tensors(model).items():
        if type(tensor.data) is not Tensor:
            message = (
                f"{name} is a {type(tensor.data).__name__}, not a plain tensor. Its entries do not lie where its shape "
                "says (sharded, packed or quantised). Prune the plain model first, then shard or convert it."
            )
            raise ModelError(message)
        if not tensor.is_leaf:
            message = (
                f"{name} is the result of a differentiable operation ({tensor.grad_fn}), not a leaf. "
                "Cutting it would cut a graph that autograd still holds. Assign it detached, then try again."
            )
            raise ModelError(message)
