"""Taps: identity functions at consumer inputs that collect per-sample gate gradients during the backward pass.

A gate is an imaginary factor of one on unit u, shared by every consumer of its group. Its derivative for sample n,

    z[n, u] = Σ over consumers, positions of  x · ∂L/∂x      (x: what the consumer reads)

needs only what the consumer keeps for its own backward pass, so a tap costs one product and one sum and no activation
memory. A plain hook on a residual tensor would also see the gradient of the identity shortcut; a tap sees its
consumer only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secateurs.graph.values import Site
from secateurs.session.maps import samples_of
from secateurs.session.units import Ledger


@dataclass(eq=False)
class Pass:
    """One forward pass and what its backward pass has brought so far; z is [samples, units]."""

    units: int
    samples: int | None
    z: Tensor | None = None

    def add(self, part: Tensor, entries: Entries, rows: int) -> bool:
        """Add one consumer's contribution [rows, entries along the site's dimension]; signs are kept.

        Rows that are `rows` per sample, in the samples' order (windows, tokens folded into the batch), are summed.
        False where rows cannot be told apart by sample (regions of interest in varying numbers).
        """
        samples = part.shape[0] if self.samples is None else self.samples
        if part.shape[0] not in {samples, samples * rows}:
            return False
        if part.shape[0] != samples:
            part = part.view(samples, -1, part.shape[1]).sum(1)
        if self.z is None:
            self.z = torch.zeros(samples, self.units, dtype=torch.float32, device=part.device)
        entries.add_to(self.z, part)
        return True


@dataclass(frozen=True, eq=False)
class Entries:
    """Which entries along a site's dimension belong to which flat unit."""

    entry: Tensor
    unit: Tensor
    whole: slice | None = None
    """Set where entry i is exactly unit start + i, so that no gather is needed."""

    @classmethod
    def of(cls, site: Site, start: int) -> Entries:
        """Entries of a site whose group's units start at a flat position."""
        units, each = site.index.shape
        entry = torch.from_numpy(np.ascontiguousarray(site.index.reshape(-1)))
        unit = torch.from_numpy(np.repeat(np.arange(units), each) + start)
        plain = each == 1 and bool((site.index[:, 0] == np.arange(units)).all())
        return cls(entry, unit, slice(start, start + units) if plain else None)

    def add_to(self, z: Tensor, part: Tensor) -> None:
        """Add [samples, entries] to the units' columns of z."""
        if self.whole is not None and part.shape[1] == self.whole.stop - self.whole.start:
            z[:, self.whole] += part
        else:
            z.index_add_(1, self.unit.to(z.device), part.index_select(1, self.entry.to(z.device)))


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int, take: Callable[[Tensor], None]) -> Tensor:
        ctx.save_for_backward(x)
        ctx.dim, ctx.take = dim, take
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        ctx.take(gate_gradient(x, grads[0], ctx.dim))
        return grads[0], None, None


def gate_gradient(x: Tensor, grad: Tensor, dim: int) -> Tensor:
    """Sum x·∂L/∂x over everything but samples (dimension 0) and `dim`: [samples, entries], in float32.

    >>> gate_gradient(torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[3.0, 4.0]]]), 1)
    tensor([[11.]])
    """
    dims = [d for d in range(1, x.dim()) if d != dim % x.dim()]
    product = x.float() * grad.float()
    return product.sum(dims) if dims else product


def tap(x: Tensor, dim: int, take: Callable[[Tensor], None]) -> Tensor:
    """Return x itself; when its gradient arrives, `take` is given the gate gradient [rows, entries along `dim`]."""
    return _Gate.apply(x, dim, take)  # pyright: ignore[reportReturnType]


@dataclass(eq=False)
class Taps:
    """The taps of a model: squares of per-sample gate gradients, summed over samples and passes into one flat vector.

    Per-sample losses are assumed to be averaged over the batch: z is multiplied by the number of samples, so that a
    short last batch weighs as its samples do. A pass whose z is not finite (an overflow under AMP) counts for
    nothing.
    """

    model: nn.Module
    ledger: Ledger
    sites: Mapping[str, Sequence[Site]]
    rows: Mapping[str, int] = field(default_factory=dict[str, int])
    """Rows per sample of a reading module's input, where that is a fixed number; 1 is always taken as samples."""
    scale: float = 1.0
    """Loss scale to divide by (AMP); constant scales cancel in every ranking."""
    blind: dict[str, str] = field(init=False, default_factory=dict[str, str])
    """Group -> why its sum says nothing: a consumer whose input needs no gradient, or rows that are not samples."""
    total: Tensor = field(init=False)
    samples: int = field(init=False, default=0)
    _passes: list[Pass] = field(init=False, default_factory=list)
    _handles: list[Any] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        device = next((p.device for p in self.model.parameters()), torch.device("cpu"))
        self.total = torch.zeros(self.ledger.total, dtype=torch.float32, device=device)

    def open(self) -> None:
        """Register the taps; a second call replaces them (after the network shrank)."""
        self.close()
        begin: Any = _Begin(self)
        self._handles.append(self.model.register_forward_pre_hook(begin, prepend=True, with_kwargs=True))
        modules = dict(self.model.named_modules(remove_duplicate=False))
        for name, start in zip(self.ledger.names, self.ledger.starts, strict=True):
            for site in self.sites[name]:
                hook: Any = _Tap(self, name, site, Entries.of(site, start))
                self._handles.append(modules[site.module].register_forward_pre_hook(hook))

    @property
    def is_open(self) -> bool:
        """Whether the taps are on the model."""
        return bool(self._handles)

    def close(self) -> None:
        """Remove every tap; the model is as it was."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._passes.clear()

    def begin(self, samples: int | None) -> None:
        """A new forward pass: finished ones are folded into the total."""
        self.fold()
        self._passes.append(Pass(self.ledger.total, samples))

    def current(self) -> Pass | None:
        """The pass that is under way, if the model's forward has been entered."""
        return self._passes[-1] if self._passes else None

    def fold(self) -> None:
        """Square, sum over samples and add to the total what has arrived; no device waits."""
        for record in self._passes:
            if record.z is not None:
                z = record.z * (record.z.shape[0] / self.scale)
                squared = z.square().sum(0)
                fine = torch.isfinite(squared).all()
                self.total += torch.where(fine, squared, torch.zeros_like(squared))
                self.samples += z.shape[0]
                record.z = None
        # Passes whose backward has not come yet (several forwards, one backward) stay referenced by their taps.
        self._passes = self._passes[-1:]

    def reset(self) -> None:
        """Forget the sums."""
        self.total.zero_()
        self.samples = 0


class _Hook:
    """A forward pre-hook that a copy or a pickle of the model does not take along: the copy gets a dead one."""

    def __deepcopy__(self, memo: dict[int, Any]) -> _Dead:
        return _Dead()

    def __reduce__(self) -> tuple[type[_Dead], tuple[()]]:
        return _Dead, ()


class _Dead:
    """What a tap becomes in a copy of the model (an EMA copy, a checkpoint of the whole module)."""

    def __call__(self, *_: Any) -> None:
        return None


class _Begin(_Hook):
    def __init__(self, taps: Taps) -> None:
        self._taps = taps

    @torch.compiler.disable
    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if torch.is_grad_enabled() and module.training:
            self._taps.begin(samples_of((*args, *kwargs.values())))


class _Tap(_Hook):
    def __init__(self, taps: Taps, group: str, site: Site, entries: Entries) -> None:
        self._taps, self._group, self._dim, self._entries = taps, group, site.dim, entries
        self._rows = taps.rows.get(site.module, 1)

    @torch.compiler.disable
    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        record = self._taps.current()
        if record is None or not args or not torch.is_grad_enabled() or not isinstance(args[0], Tensor):
            return None
        if not args[0].requires_grad:
            self._taps.blind[self._group] = "a consumer's input needs no gradient (frozen layers before it)"
            return None

        def take(part: Tensor) -> None:
            if not record.add(part, self._entries, self._rows):
                self._taps.blind[self._group] = "a consumer's rows are not samples (regions of interest)"

        return (tap(args[0], self._dim, take), *args[1:])
