"""Is this a model that can be scored and cut? Asked before any work."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from secateurs.errors import ModelError
from secateurs.graph import check_model
from secateurs.surgery.tensors import named_tensors

_STATISTICS = ("running_mean", "running_var")


def check_sound(model: Any) -> nn.Module:
    """Take a wrapper off and refuse a model without values, with NaN or infinite weights, or of a kind not prunable.

    Masks of -inf are common among buffers and harmless: only parameters and running statistics must be finite.
    """
    model = check_model(model)
    check_plain(model)
    for name, tensor in named_tensors(model).items():
        if tensor.is_meta:
            message = (
                f"{name} is on the meta device: it has a shape and no values. Units cannot be scored without values. "
                "Load the weights (model.to_empty, then load_state_dict) first."
            )
            raise ModelError(message)
        judged = isinstance(tensor, nn.Parameter) or name.rpartition(".")[2] in _STATISTICS
        # A finite sum has finite terms; only where it is not are they looked at one by one (a sum may overflow).
        if judged and not bool(torch.isfinite(tensor.sum())) and (count := int((~torch.isfinite(tensor)).sum())):
            message = (
                f"{name} holds {count} values that are NaN or infinite, of {tensor.numel()}. "
                "Scores and sums over them mean nothing, and would choose units at random. "
                "Find out where training diverged, and prune a checkpoint from before."
            )
            raise ModelError(message)
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
