"""Taps: identity functions at consumer inputs that collect per-sample gate gradients during the backward pass.

A gate is an imaginary factor of one on unit u, shared by every consumer of its group. Its derivative for sample n,

    z[n, u] = Σ over consumers, positions of  x · ∂L/∂x      (x: the consumer's input)

needs only tensors that the consumer stores for its own backward pass, so that a tap costs one product and one sum and
no activation memory. A plain hook on a residual tensor would include the gradient of the identity shortcut; a tap has
the gradient of its consumer only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override

from secateurs.evidence.gates import gate_gradient
from secateurs.graph.groups import Site
from secateurs.running.hooks import tap
from secateurs.running.samples import NOT_SAMPLES, Layout, samples_of
from secateurs.session.flat_units import Ledger


@dataclass(eq=False)
class Pass:
    """One forward pass, with the gate gradients z [samples, units] of its backward pass so far."""

    units: int
    samples: int | None
    z: Tensor | None = None

    def add(self, rows: Tensor, entries: Entries, layout: Layout) -> bool:
        """Add one consumer's contribution [rows, entries along the site's dimension]; signs are kept.

        Rows of one sample (windows, tokens folded into the batch) are summed. False where rows cannot be told apart
        by sample (regions of interest in varying numbers).
        """
        samples = len(rows) if self.samples is None else self.samples
        part = layout.per_sample(rows, samples)
        if part is None:
            return False
        if self.z is None:
            self.z = torch.zeros(samples, self.units, dtype=torch.float32, device=part.device)
        entries.add_to(self.z, part.float())
        return True


@dataclass(frozen=True, eq=False)
class Entries:
    """Entries along a site's dimension, and the flat number of the unit that each belongs to."""

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


@dataclass(eq=False)
class Taps:
    """The taps of a model: squares of per-sample gate gradients, summed over samples and passes into one flat vector.

    Per-sample losses are assumed to be averaged over the batch: z is multiplied by the number of samples, so that a
    smaller last batch has the weight of its samples. A pass whose z is not finite (an overflow under AMP) is ignored.
    """

    model: nn.Module
    ledger: Ledger
    sites: Mapping[str, Sequence[Site]]
    layouts: Mapping[str, Layout | str] = field(default_factory=dict[str, "Layout | str"])
    """The sample dimension of each module's input, or why its samples cannot be separated; dimension 0 by default."""
    blind: dict[str, str] = field(init=False, default_factory=dict[str, str])
    """Group -> why its sum is meaningless: a consumer whose input needs no gradient, or rows that are not samples."""
    total: Tensor = field(init=False)
    samples: int = field(init=False, default=0)
    _passes: list[Pass] = field(init=False, default_factory=list)
    _handles: list[Any] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        device = next((p.device for p in self.model.parameters()), torch.device("cpu"))
        self.total = torch.zeros(self.ledger.total, dtype=torch.float32, device=device)
        for name in self.ledger.names:
            reasons = [r for r in (self.layouts.get(s.module) for s in self.sites[name]) if isinstance(r, str)]
            if reasons:
                self.blind[name] = reasons[0]

    def open(self) -> None:
        """Register the taps; a second call replaces them (after the network shrank)."""
        self.close()
        begin: Any = _Begin(self)
        self._handles.append(self.model.register_forward_pre_hook(begin, prepend=True, with_kwargs=True))
        modules = dict(self.model.named_modules(remove_duplicate=False))
        for name, start in zip(self.ledger.names, self.ledger.starts, strict=True):
            for site in self.sites[name] if name not in self.blind else ():
                hook: Any = _Tap(self, name, site, Entries.of(site, start))
                self._handles.append(modules[site.module].register_forward_pre_hook(hook, with_kwargs=True))

    @property
    def is_open(self) -> bool:
        """True if the taps are on the model."""
        return bool(self._handles)

    def close(self) -> None:
        """Remove every tap from the model."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._passes.clear()

    def begin(self, samples: int | None) -> None:
        """Start a new forward pass, and add finished ones to the total."""
        self.fold()
        self._passes.append(Pass(self.ledger.total, samples))

    def current(self) -> Pass | None:
        """The current pass, if the model's forward was entered."""
        return self._passes[-1] if self._passes else None

    def fold(self) -> None:
        """Square gate gradients, sum them over samples and add them to the total, without a device synchronisation."""
        for record in self._passes:
            if record.z is not None:
                z = record.z * record.z.shape[0]
                squared = z.square().sum(0)
                fine = torch.isfinite(squared).all()
                self.total += torch.where(fine, squared, torch.zeros_like(squared))
                self.samples += z.shape[0]
                record.z = None
        # Passes whose backward has not come yet (several forwards, one backward) stay referenced by their taps.
        self._passes = self._passes[-1:]

    def reset(self) -> None:
        """Reset the sums."""
        self.total.zero_()
        self.samples = 0


class _Hook(ABC):
    """A forward pre-hook that a copy or a pickle of the model does not take along: the copy gets a dead one.

    torch.compile leaves it out of its graphs. It is told so when the hook is made, and not by a decorator: that alone
    imports the compiler, which takes longer than all of PyTorch.
    """

    def __init__(self) -> None:
        disable: Any = torch.compiler.disable
        self._uncompiled = disable(self.seen)

    @abstractmethod
    def seen(self, args: tuple[Any, ...], kwargs: dict[str, Any], module: nn.Module) -> Any:
        """Look at what a module is called with; what is returned replaces it."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self._uncompiled(args, kwargs, module)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Dead:
        return _Dead()

    def __reduce__(self) -> tuple[type[_Dead], tuple[()]]:
        return _Dead, ()


class _Dead:
    """Replacement of a gradient hook in a copy of the model (an EMA copy, a checkpoint of the whole module)."""

    def __call__(self, *_: Any) -> None:
        return None


class _Begin(_Hook):
    def __init__(self, taps: Taps) -> None:
        super().__init__()
        self._taps = taps

    @override
    def seen(self, args: tuple[Any, ...], kwargs: dict[str, Any], module: nn.Module) -> None:
        if torch.is_grad_enabled() and module.training:
            self._taps.begin(samples_of((*args, *kwargs.values())))


class _Tap(_Hook):
    def __init__(self, taps: Taps, group: str, site: Site, entries: Entries) -> None:
        super().__init__()
        self._taps, self._group, self._dim, self._entries = taps, group, site.dim, entries
        found = taps.layouts.get(site.module, Layout())
        self._layout = Layout() if isinstance(found, str) else found

    @override
    def seen(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], module: nn.Module
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        record = self._taps.current()
        place = next((i for i, value in enumerate(args) if isinstance(value, Tensor)), None)
        key = next((k for k, value in kwargs.items() if isinstance(value, Tensor)), None)
        if record is None or not torch.is_grad_enabled() or (place is None and key is None):
            return None
        x: Tensor = args[place] if place is not None else kwargs[str(key)]
        if not x.requires_grad:
            self._taps.blind[self._group] = "a consumer's input needs no gradient (frozen layers before it)"
            return None

        def take(x: Tensor, grad: Tensor) -> None:
            if not record.add(gate_gradient(x, grad, self._dim, self._layout.dim), self._entries, self._layout):
                self._taps.blind[self._group] = NOT_SAMPLES

        tapped = tap(x, take)
        if place is not None:
            return (*args[:place], tapped, *args[place + 1 :]), kwargs
        return args, {**kwargs, str(key): tapped}
