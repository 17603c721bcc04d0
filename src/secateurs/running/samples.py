"""Find the dimension of a module's input that counts samples, and the order of samples in it.

Guessing dimension 0 would be wrong inside sequence-first transformers, for windows, and for regions of interest. The
model is run once on its example inputs and once on those and as many different ones, stacked along their first
dimension: the dimension that doubles counts samples, and where the first samples are found again says their order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from secateurs.errors import InputError
from secateurs.running.hooks import hooked
from secateurs.running.nested import as_call, map_tensors
from secateurs.running.untouched import untouched

TOLERANCE = 1e-2
"""Relative error up to which a sample's rows are the same in a larger batch; reduced precision needs that much."""


@dataclass(frozen=True)
class Layout:
    """Dimension `dim` counts samples, with one of `each` rows per sample; with `inner`, samples vary fastest."""

    dim: int = 0
    each: tuple[int, ...] = (1,)
    inner: bool = False

    def per_sample(self, rows: Tensor, samples: int) -> Tensor | None:
        """Sum [rows, entries] over the rows of each sample; None where their number fits no sample.

        >>> Layout(each=(2,)).per_sample(torch.tensor([[1.0], [2.0], [3.0], [4.0]]), 2).tolist()
        [[3.0], [7.0]]
        >>> Layout(each=(2,), inner=True).per_sample(torch.tensor([[1.0], [2.0], [3.0], [4.0]]), 2).tolist()
        [[4.0], [6.0]]
        """
        if len(rows) == samples:
            return rows if 1 in self.each else None
        if len(rows) not in {samples * each for each in self.each}:
            return None
        if self.inner:
            return rows.view(-1, samples, rows.shape[1]).sum(0)
        return rows.view(samples, -1, rows.shape[1]).sum(1)


NOT_SAMPLES = "a consumer's rows are not samples (regions of interest)"


def samples_of(inputs: Iterable[Any]) -> int | None:
    """The batch size of a forward call: rows of its first tensor, or the length of a list of images.

    >>> samples_of((torch.zeros(4, 3),)), samples_of(([torch.zeros(3, 5, 5)] * 2,)), samples_of(())
    (4, 2, None)
    """
    for value in inputs:
        if isinstance(value, Tensor) and value.dim() > 0:
            return value.shape[0]
        if isinstance(value, list | tuple) and value:
            return len(value)  # pyright: ignore[reportUnknownArgumentType]
    return None


def find_layouts(model: nn.Module, example: Any, paths: Iterable[str]) -> dict[str, Layout | str]:
    """Return the layout of every module's input, or a text that says why there is none. The model is not changed.

    Raises InputError if the model does not run on the doubled inputs, or if rows of the first dimension of its inputs
    act on one another: then that dimension does not count samples.
    """
    args, kwargs = as_call(example)
    samples = samples_of((*args, *kwargs.values()))
    watches = {path: _Watch(samples or 1) for path in paths}
    if samples is None:
        return dict.fromkeys(watches, Layout())
    with untouched(model) as stack, torch.no_grad():
        _listen(model, watches, stack)
        model(*args, **kwargs)
        for watch in watches.values():
            watch.second = True
        doubled = _doubled([*args, *kwargs.values()], samples)
        try:
            model(*doubled[: len(args)], **dict(zip(kwargs, doubled[len(args) :], strict=True)))
        except Exception as cause:
            raise InputError(
                f"the model does not run on {2 * samples} samples stacked along the first dimension of its example "
                f"inputs ({type(cause).__name__}: {_first_line(cause)}). Gradients are told apart by sample, so that "
                "dimension must count samples. Wrap the model in one whose inputs are batch-first, and pass example "
                "inputs of any batch size."
            ) from cause
    mixing = _mixes_batches(model)
    found = {path: watch.layout(trust=mixing) for path, watch in watches.items()}
    mixed = [path for path, layout in found.items() if layout == _MIXED]
    if mixed:
        raise InputError(
            f"the input of {mixed[0]!r} changes when other rows are stacked along the first dimension of the model's "
            "inputs, so that dimension does not count samples (a sequence-first transformer?). Gradients are told "
            "apart by sample. Wrap the model in one whose inputs are batch-first."
        )
    return found


_MIXED = "its rows depend on other samples"


@dataclass(eq=False)
class _Watch:
    """Inputs of one module in two runs, compared call by call."""

    samples: int
    second: bool = False
    calls: list[Tensor] = field(default_factory=list[Tensor])
    found: list[Layout | str] = field(default_factory=list["Layout | str"])

    def __call__(self, x: Tensor) -> Tensor:
        if not self.second:
            self.calls.append(x.detach().clone())
        elif len(self.found) < len(self.calls):
            self.found.append(_compared(self.calls[len(self.found)], x.detach(), self.samples))
        else:
            self.found.append(NOT_SAMPLES)
        return x

    def layout(self, *, trust: bool) -> Layout | str:
        """Return the common layout of all calls; `trust`: assume dimension 0 if values differ for another reason."""
        if len(self.found) != len(self.calls) or not self.calls:
            return NOT_SAMPLES
        found = [Layout() if trust and one == _MIXED else one for one in self.found]
        reasons = [one for one in found if isinstance(one, str)]
        if reasons:
            return _MIXED if _MIXED in reasons else reasons[0]
        layouts = [one for one in found if isinstance(one, Layout)]
        if len({(one.dim, one.inner) for one in layouts}) > 1:
            return NOT_SAMPLES
        each = tuple(sorted({e for one in layouts for e in one.each}))
        return Layout(layouts[0].dim, each, layouts[0].inner)


def _compared(one: Tensor, two: Tensor, samples: int) -> Layout | str:
    """Positions of the first run's samples among those of the second."""
    if one.dim() != two.dim():
        return NOT_SAMPLES
    changed = [d for d in range(one.dim()) if one.shape[d] != two.shape[d]]
    if len(changed) != 1 or two.shape[changed[0]] != 2 * one.shape[changed[0]] or one.shape[changed[0]] % samples:
        return NOT_SAMPLES
    dim = changed[0]
    each = one.shape[dim] // samples
    one, two = one.movedim(dim, 0), two.movedim(dim, 0)
    if _near(two[: len(one)], one):
        return Layout(dim, (each,))
    inner = two.unflatten(0, (each, 2 * samples))[:, :samples].flatten(0, 1)
    if each > 1 and _near(inner, one):
        return Layout(dim, (each,), inner=True)
    return _MIXED if each == 1 else NOT_SAMPLES


def _near(one: Tensor, other: Tensor) -> bool:
    one, other = one.double(), other.double()
    return bool((one - other).norm() <= TOLERANCE * other.norm())


def _listen(model: nn.Module, watches: dict[str, _Watch], stack: ExitStack) -> None:
    for path, watch in watches.items():
        stack.enter_context(hooked(model, (path, "input"), watch))


def _mixes_batches(model: nn.Module) -> bool:
    """True if a norm uses the batch's own statistics even in eval mode, so that samples act on one another."""
    norms = (nn.modules.batchnorm._BatchNorm,)  # noqa: SLF001
    return any(isinstance(m, norms) and m.running_mean is None for m in model.modules())


def _doubled(inputs: Sequence[Any], samples: int) -> list[Any]:
    """Append as many different samples to the inputs: to tensors along dimension 0, to lists of images at the end."""
    generator = torch.Generator().manual_seed(0)
    first = next(value for value in inputs if isinstance(value, Tensor | list | tuple))

    def other(value: Tensor) -> Tensor:
        return _other(value, generator)

    def double(value: Tensor) -> Tensor:
        return torch.cat([value, other(value)]) if value.dim() and len(value) == samples else value

    def listed(value: Any) -> Any:
        if isinstance(value, list | tuple) and len(value) == samples:  # pyright: ignore[reportUnknownArgumentType]
            return type(value)([*value, *map_tensors(list(value), other)])  # pyright: ignore[reportUnknownArgumentType]
        return value

    return [map_tensors(value, double) if isinstance(first, Tensor) else listed(value) for value in inputs]


def _other(value: Tensor, generator: torch.Generator) -> Tensor:
    """Return a different value of the same type: floats with noise, integers in another order or shifted by one."""
    if value.is_floating_point() or value.is_complex():
        noise = torch.randn(value.shape, generator=generator, dtype=torch.float32)
        return value + noise.to(value)
    if value.dtype == torch.bool or not value.numel():
        return value.clone()
    turned = value.flip(tuple(range(1, value.dim()))) if value.dim() > 1 else value.flip(0)
    return torch.where(value > 0, value - 1, value + 1) if torch.equal(turned, value) else turned


def _first_line(cause: Exception) -> str:
    return (str(cause).splitlines() or [""])[0]
