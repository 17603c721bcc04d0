"""Point-wise operators: labels that meet on one element are kept or removed together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from secateurs.graph.labels import ANY, Fresh, Lab
from secateurs.graph.propagate import tensors
from secateurs.graph.rules.in_place import silence_through, write_through

if TYPE_CHECKING:
    from secateurs.graph.propagate import Op, Propagation

aten = torch.ops.aten

_KEEPS_ZERO = frozenset(
    [
        "relu",
        "relu6",
        "hardtanh",
        "gelu",
        "silu",
        "tanh",
        "hardswish",
        "leaky_relu",
        "elu",
        "selu",
        "celu",
        "mish",
        "abs",
        "neg",
        "sgn",
        "sign",
        "sqrt",
        "square",
        "sin",
        "tan",
        "asin",
        "atan",
        "sinh",
        "asinh",
        "atanh",
        "erf",
        "expm1",
        "log1p",
        "floor",
        "ceil",
        "round",
        "trunc",
        "frac",
        "softsign",
        "hardshrink",
        "softshrink",
        "clone",
        "detach",
        "alias",
        "_to_copy",
        "lift_fresh",
        "lift_fresh_copy",
        "native_dropout",
        "dropout",
        "rrelu_with_noise",
        "deg2rad",
        "nan_to_num",
        "real",
        "imag",
        "conj",
        "positive",
        "relu_",
        "leaky_relu_backward",
        "_prelu_kernel",
        "view_as_real",
        "isneginf",
        "bernoulli",
        "log_sigmoid_backward",
    ]
)
_PRODUCTS = frozenset({"mul", "multiply"})
_QUOTIENTS = frozenset({"div", "true_divide", "floor_divide", "fmod", "remainder"})
_SUMS = frozenset(
    {"add", "sub", "rsub", "maximum", "minimum", "fmax", "fmin", "where", "lerp", "hypot", "atan2", "copysign"}
)


_UNTAGGED = frozenset(
    {"hardsigmoid", "softplus", "log_sigmoid_forward", "threshold", "logit", "rsub", "sigmoid", "lerp"}
)


def is_pointwise(func: Any) -> bool:
    """Tagged as such, known as such by name, or the in-place twin of an operator that is."""
    if torch.Tag.pointwise in func.tags:
        return True
    name = func.overloadpacket.__name__
    plain = name[:-1] if name.endswith("_") and not name.startswith("_") else name
    if plain in _KEEPS_ZERO or plain in _UNTAGGED:
        return True
    twin = getattr(aten, plain, None) if plain != name else None
    return twin is not None and any(torch.Tag.pointwise in getattr(twin, o).tags for o in twin.overloads())


def _name(op: Op) -> str:
    name: str = op.func.overloadpacket.__name__
    return name[:-1] if name.endswith("_") and not name.endswith("__") else name


def pointwise(p: Propagation, op: Op) -> None:
    """Axes are aligned to the right and broadcast; on every element the labels meet."""
    result = op.out[0] if isinstance(op.out, (tuple, list)) else op.out
    if not isinstance(result, Tensor):
        return
    inputs = [t for t in tensors(op.args) if t.dim()]
    inputs += [t for t in tensors(tuple(op.kwargs.values())) if t is not result and t.dim()]
    written = result if op.func._schema.is_mutable else None
    before = p.get(written).axes if written is not None else ()
    labs = [p.get(t) for t in inputs]
    zero = _zero(op, labs, inputs)
    if len(inputs) == 1 and inputs[0].dim() == result.dim():
        lab = labs[0]
        if not (lab.zero == zero and written is None):
            lab = Lab(lab.axes, zero=zero)
        axes = lab.axes
        p.labs[id(result)] = lab
    else:
        axes = tuple(_meeting(p, inputs, labs, d - result.dim(), n) for d, n in enumerate(result.shape))
        p.set(result, axes, zero=zero)
    if written is not None and not all(a is b for a, b in zip(axes, before, strict=True)):
        written_into(p, written)
    elif written is not None:
        silence_through(p, written, zero=zero)
    for extra in op.out[1:] if isinstance(op.out, (tuple, list)) else ():
        if isinstance(extra, Tensor) and extra.dim() == result.dim():
            p.set(extra, axes, zero=False)


def _meeting(p: Propagation, inputs: list[Tensor], labs: list[Lab], d: int, size: int) -> Any:
    """Combine the inputs' axes at dimension `d`, counted from the right (negative)."""
    met: Any = ANY if size != 1 else None
    fixed = False
    for tensor, lab in zip(inputs, labs, strict=True):
        if -d > tensor.dim():
            continue
        axis = lab.axes[d]
        if axis is None:
            fixed = fixed or tensor.shape[d] == size != 1
        elif axis is ANY:
            continue
        elif tensor.shape[d] == 1 != size and not p.check:
            p.guard(axis, "it is broadcast over other units")
            fixed = True
        elif met is ANY or met is None:
            met = axis
        elif met is not axis:
            met = p.meet(met, axis)
    if fixed:
        return p.meet(met, None) if met is not ANY and met is not None else None
    return met


def _zero(op: Op, labs: list[Lab], inputs: list[Tensor]) -> bool:
    """True if the result is exactly 0 for zeroed units."""
    labelled = [lab for lab in labs if any(isinstance(a, (np.ndarray, Fresh)) for a in lab.axes)]
    if not labelled:
        return True
    zeros = [lab.zero for lab in labelled]
    name = _name(op)
    if name in _KEEPS_ZERO:
        return all(zeros)
    if name in _PRODUCTS:
        return any(zeros)
    if name in _QUOTIENTS:
        return labs[0] in labelled and labs[0].zero
    if name in _SUMS:
        scalars = [a for a in op.args[:2] if isinstance(a, (int, float))]
        return all(zeros) and len(labelled) == len(labs) and all(s == 0 for s in scalars)
    if name == "pow":
        power = op.args[1]
        return all(zeros) and isinstance(power, (int, float)) and power > 0
    if name in ("clamp", "clamp_min", "clamp_max", "clip"):
        return all(zeros) and _holds_zero(op)
    if name in ("addcmul", "addcdiv"):
        return all(zeros) and len(labelled) == len(inputs)
    return False


def _holds_zero(op: Op) -> bool:
    """True if 0 lies within the limits of a clamp."""
    limits = [*op.args[1:], *op.kwargs.values()]
    if any(isinstance(v, Tensor) for v in limits):
        return False
    name = _name(op)
    low = limits[0] if limits and name != "clamp_max" else op.kwargs.get("min")
    high = op.kwargs.get("max", limits[1] if len(limits) > 1 else None) if name != "clamp_max" else limits[0]
    if name == "clamp_min":
        high = None
    return (low is None or low <= 0) and (high is None or high >= 0)


def written_into(p: Propagation, tensor: Tensor) -> None:
    """After an in-place write into a view, its base has these labels too."""
    if id(tensor) in p.parents:
        write_through(p, tensor)


def unknown(p: Propagation, op: Op) -> None:
    """Operators without a rule: the units of the arguments are protected, and the results are fixed."""
    reason = "no channel rule"
    for t in (*tensors(op.args), *tensors(tuple(op.kwargs.values()))):
        p.guard_all(t, reason)
    for t in tensors(op.out):
        p.set(t, (None,) * t.dim())
