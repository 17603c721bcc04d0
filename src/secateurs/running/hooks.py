"""Temporary hooks that read or change a module's inputs, outputs, or the gradients with respect to them."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

Port = tuple[str, str]
"""A module's name, and "input" or "output"."""

Sink = Callable[[Tensor, Tensor], None]


@contextmanager
def hooked(model: nn.Module, port: Port, change: Callable[[Tensor], Tensor]) -> Generator[None, None, None]:
    """Replace a module's first input or output tensor by `change(tensor)` inside a `with` block."""
    module = model.get_submodule(port[0])

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        for place, value in enumerate(args):
            if isinstance(value, Tensor):
                return (*args[:place], change(value), *args[place + 1 :]), kwargs
        for key, value in kwargs.items():
            if isinstance(value, Tensor):
                return args, {**kwargs, key: change(value)}
        return args, kwargs

    def after(_: nn.Module, __: Any, output: Any) -> Any:
        if isinstance(output, tuple | list) and output and isinstance(output[0], Tensor):
            entries = cast("tuple[Any, ...]", output)
            return type(entries)((change(entries[0]), *entries[1:]))
        return change(output) if isinstance(output, Tensor) else output

    if port[1] == "input":
        handle = module.register_forward_pre_hook(before, with_kwargs=True)
    else:
        handle = module.register_forward_hook(after)
    try:
        yield
    finally:
        handle.remove()


class _Tap(torch.autograd.Function):
    """Identity in forward; backward passes the activation and its gradient to a function, the sink."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, sink: Sink, keep: bool) -> Tensor:  # noqa: FBT001 - autograd passes by position
        ctx.sink = sink
        ctx.save_for_backward(x)
        return x.clone() if keep else x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.sink(ctx.saved_tensors[0], grads[0])
        return grads[0], None, None


def tap(x: Tensor, sink: Sink, *, before_inplace: bool = False) -> Tensor:
    """Return `x` unchanged; when the gradient passes back through here, call `sink(x, dL/dx)`.

    The gradient is that of the uses of the *returned* tensor, not of all uses of `x`: at a convolution's input it is
    that of this convolution alone, even if a shortcut starts from the same tensor. If the next operator works in place
    (a ReLU on a raw output), `before_inplace` is needed, which costs one copy.

    >>> seen = []
    >>> x = torch.tensor([2.0, 3.0], requires_grad=True)
    >>> (tap(x, lambda x, g: seen.append(x * g)) ** 2 + 7 * x).sum().backward()
    >>> seen[0].tolist()  # x * 2x, without the 7
    [8.0, 18.0]
    """
    return _Tap.apply(x, sink, before_inplace)  # pyright: ignore[reportReturnType]
