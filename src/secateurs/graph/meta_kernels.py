"""Output shapes of the commonest operators on meta, without the cost of running their meta kernels.

Each entry takes the operator's arguments and returns its output, or `NotImplemented` for whatever is unusual.
They must raise where the operator raises: a trial reads an error as "the code does not adapt to this width".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

aten = torch.ops.aten
_META = torch.device("meta")
_empty = torch.empty
_NOTHING = torch.empty(0, device=_META)


def _empty_like(x: torch.Tensor) -> torch.Tensor:
    """As `torch.empty_like`, which on meta runs a Python decomposition."""
    if x.is_contiguous():
        return _empty(x.shape, dtype=x.dtype, device=_META)
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=_META)


def _convolution(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    x, weight, bias, stride, padding, dilation, transposed, output_padding, groups = args
    xs, ws = x.shape, weight.shape
    n = len(ws) - 2
    if (
        kwargs
        or len(xs) != len(ws)
        or not x.is_contiguous()
        or x.dtype is not weight.dtype
        or not len(stride) == len(padding) == len(dilation) == n
    ):
        return NotImplemented
    inputs, outputs = (ws[0], ws[1] * groups) if transposed else (ws[1] * groups, ws[0])
    if xs[1] != inputs:  # the meta kernel of a transposed convolution does not check this
        raise RuntimeError(f"a convolution that reads {inputs} channels is given {xs[1]}")
    if outputs % groups or (bias is not None and bias.shape[0] != outputs):
        return NotImplemented  # the real kernel says what is wrong
    out = [xs[0], outputs]
    for i in range(n):
        reach = dilation[i] * (ws[i + 2] - 1)
        if transposed:
            size = (xs[i + 2] - 1) * stride[i] - 2 * padding[i] + reach + output_padding[i] + 1
        else:
            size = (xs[i + 2] + 2 * padding[i] - reach - 1) // stride[i] + 1
        if size <= 0:
            return NotImplemented
        out.append(size)
    return _empty(out, dtype=x.dtype, device=_META)


def _batch_norm(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    x, channels = args[0], args[0].shape[1]
    if kwargs or args[5] or any(t is not None and t.shape[0] != channels for t in args[1:5]):
        return NotImplemented
    return _empty_like(x), _NOTHING, _NOTHING


def _factory(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`torch.empty` in plain form, as batch norm asks for on every call."""
    if (
        kwargs.get("device") != _META
        or kwargs.keys() - _PLAIN_FACTORY
        or kwargs.get("layout") not in (None, torch.strided)
    ):
        return NotImplemented
    return _empty(args[0], dtype=kwargs.get("dtype"), device=_META)


_PLAIN_FACTORY = {"device", "dtype", "layout", "pin_memory"}


def _same(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return NotImplemented if kwargs or not args[0].is_floating_point() else _empty_like(args[0])


def _itself(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[0]


def _binary(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    a, b = args[0], args[1]
    if kwargs or not isinstance(b, torch.Tensor) or a.dtype is not b.dtype or not a.is_contiguous():
        return NotImplemented
    if a.shape == b.shape:
        return _empty_like(a)
    if a.dim() != b.dim() or not b.is_contiguous():
        return NotImplemented
    if all(m in (1, n) for n, m in zip(a.shape, b.shape, strict=True)):
        return _empty_like(a)
    return _empty_like(b) if all(n in (1, m) for n, m in zip(a.shape, b.shape, strict=True)) else NotImplemented


def _binary_inplace(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return (
        args[0]
        if not kwargs and isinstance(args[1], torch.Tensor) and args[0].shape == args[1].shape
        else NotImplemented
    )


def _mean(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    x, dims = args[0], args[1]
    if kwargs or not dims or not x.is_floating_point():
        return NotImplemented
    keep = len(args) > 2 and args[2]
    gone = {d % x.dim() for d in dims}
    shape = [1 if d in gone else n for d, n in enumerate(x.shape) if keep or d not in gone]
    return _empty(shape, dtype=x.dtype, device=_META)


def _addmm(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    bias, a, b = args
    if kwargs or bias.shape != b.shape[1:] or a.shape[1] != b.shape[0] or not a.dtype is b.dtype is bias.dtype:
        return NotImplemented
    return _empty((a.shape[0], b.shape[1]), dtype=a.dtype, device=_META)


def _cat(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    parts, dim = args[0], args[1] if len(args) > 1 else 0
    first = parts[0]
    shape = list(first.shape)
    dim %= max(len(shape), 1)
    others = shape[:dim] + shape[dim + 1 :]
    total = 0
    for t in parts:
        s = t.shape
        if len(s) != len(shape) or t.dtype is not first.dtype or [*s[:dim], *s[dim + 1 :]] != others:
            return NotImplemented
        if not t.is_contiguous():
            return NotImplemented
        total += s[dim]
    shape[dim] = total
    return NotImplemented if kwargs else _empty(shape, dtype=first.dtype, device=_META)


def _resized(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An upsampling to a stated size; its Python decomposition on meta computes every tap of the filter."""
    x, size = args[0], args[1]
    if kwargs or not x.is_contiguous() or len(x.shape) != len(size) + 2 or min(size) < 1:
        return NotImplemented
    return _empty([*x.shape[:2], *size], dtype=x.dtype, device=_META)


_RESIZING = [
    getattr(aten, name).default
    for name in (
        *(f"upsample_{kind}" for kind in ("nearest1d", "nearest2d", "nearest3d", "linear1d", "trilinear3d")),
        *(f"upsample_{kind}2d" for kind in ("bilinear", "bicubic")),
        *(f"_upsample_{kind}" for kind in ("nearest_exact1d", "nearest_exact2d", "nearest_exact3d")),
        *(f"_upsample_{kind}2d_aa" for kind in ("bilinear", "bicubic")),
    )
]

FAST: dict[Any, Callable[[tuple[Any, ...], dict[str, Any]], Any]] = {
    aten.convolution.default: _convolution,
    aten.native_batch_norm.default: _batch_norm,
    **{op.default: _same for op in (aten.relu, aten.gelu, aten.silu, aten.hardswish, aten.hardsigmoid, aten.sigmoid)},
    aten.hardtanh.default: _same,
    **{
        op.default: _itself
        for op in (aten.relu_, aten.silu_, aten.hardswish_, aten.hardsigmoid_, aten.sigmoid_, aten.hardtanh_)
    },
    aten.empty.memory_format: _factory,
    **dict.fromkeys(_RESIZING, _resized),
    aten.mean.dim: _mean,
    aten.addmm.default: _addmm,
    aten.cat.default: _cat,
    aten.add.Tensor: _binary,
    aten.mul.Tensor: _binary,
    aten.add_.Tensor: _binary_inplace,
    aten.mul_.Tensor: _binary_inplace,
}
