"""Norms: their affine parameters and statistics follow the units; an average over units makes them inexact."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from secateurs.graph.rules.table import rule

if TYPE_CHECKING:
    from secateurs.graph.propagate import Op, Propagation

aten = torch.ops.aten
_ROLES = ("scale", "shift", "stat", "stat")


@rule(
    aten.native_batch_norm.default,
    aten._native_batch_norm_legit.default,
    aten._native_batch_norm_legit_no_training.default,
    aten._native_batch_norm_legit.no_stats,
    aten.cudnn_batch_norm.default,
    aten._batch_norm_with_update.default,
    aten._batch_norm_no_update.default,
    aten.miopen_batch_norm.default,
)
def batch_norm(p: Propagation, op: Op) -> None:
    """Every channel on its own: exact."""
    x = op.args[0]
    lab = p.get(x)
    axis = lab.axes[1]
    extras = op.args[1:3] if op.func is aten._native_batch_norm_legit.no_stats else op.args[1:5]
    for role, tensor in zip(_ROLES, extras, strict=False):
        if tensor is not None:
            axis = p.meet(axis, p.get(tensor).axes[0], role)
    zero = op.args[1] is not None or lab.zero
    at = 3 if op.func is aten._native_batch_norm_legit.no_stats else 5
    if len(op.args) > at and op.args[at] is True:  # statistics of the batch: averages over every other dimension
        for other in (lab.axes[0], *lab.axes[2:]):
            p.inexact(other)
    declared = p.attribute(op.module, "num_features")
    if isinstance(axis, np.ndarray) and isinstance(declared, int) and axis.size % declared == 0:
        p.follow("num_features", axis[:declared])
    p.set(op.out[0], (lab.axes[0], axis, *lab.axes[2:]), zero=zero)


@rule(aten.native_layer_norm.default, aten._fused_rms_norm.default, aten.rms_norm.default)
def layer_norm(p: Propagation, op: Op) -> None:
    """Averages over the last dimensions: inexact for their units."""
    x, shape = op.args[:2]
    lab = p.get(x)
    axes = list(lab.axes)
    n = len(shape)
    out = op.out[0] if isinstance(op.out, (tuple, list)) else op.out
    affine = [t for t in op.args[2:4] if isinstance(t, torch.Tensor)]
    for k in range(n):
        d = len(axes) - n + k
        for role, tensor in zip(_ROLES, affine, strict=False):
            axes[d] = p.meet(axes[d], p.get(tensor).axes[k], role)
        labels = p.settle(axes[d])
        if isinstance(labels, np.ndarray):
            p.inexact(labels)
            follows = p.attribute(op.module, "normalized_shape")
            if n == 1 and follows is not None:
                p.follow("normalized_shape", labels)
    p.set(out, tuple(axes), zero=bool(affine) or lab.zero)


@rule(aten.native_group_norm.default)
def group_norm(p: Propagation, op: Op) -> None:
    """Averages within each block of channels: exact for whole blocks, inexact for positions inside them."""
    x, weight, bias = op.args[:3]
    groups = int(op.args[6])
    lab = p.get(x)
    axis = lab.axes[1]
    for role, tensor in zip(_ROLES, (weight, bias), strict=False):
        if tensor is not None:
            axis = p.meet(axis, p.get(tensor).axes[0], role)
    axis = p.settle(axis)
    if isinstance(axis, np.ndarray):
        axis = _blocks(p, axis, groups)
    zero = weight is not None or lab.zero
    p.set(op.out[0], (lab.axes[0], axis, *lab.axes[2:]), zero=zero)


def _blocks(p: Propagation, axis: Any, groups: int) -> Any:
    size = axis.size // groups if axis.size % groups == 0 else 0
    if not size:
        p.fail("the channels cannot be divided into the norm's groups")
    follows = p.attribute(p.op.module, "num_groups") == groups
    options = ["whole"] * bool(follows and groups > 1) + ["inside"] * bool(size > 1) + ["fixed"]
    option = p.choose("norm", axis, options)
    if option == "fixed":
        p.guard(axis, "the norm's groups are fixed")
    elif option == "whole":
        units = p.merge(axis.reshape(groups, size).T)
        p.follow("num_groups", units)
        return np.repeat(units, size) if size > 1 else axis
    else:
        if groups > 1:
            p.merge(axis.reshape(groups, size))
        p.inexact(axis)
    return axis


@rule(aten._prelu_kernel.default)
def prelu(p: Propagation, op: Op) -> None:
    """max(0, x) + a * min(0, x), one slope a channel or one in all."""
    x, slope = op.args
    lab = p.get(x)
    axes = list(lab.axes)
    for d, axis in enumerate(p.get(slope).axes):
        if slope.shape[d] > 1 or isinstance(axis, np.ndarray):
            axes[d] = p.meet(axes[d], axis, "scale")
    p.set(op.out, tuple(axes), zero=lab.zero)
