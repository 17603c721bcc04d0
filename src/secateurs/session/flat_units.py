"""Per-unit values of all groups as one flat vector, and its map to rows of tensors, so that a step is one gather.

A method keeps one value per unit (a penalty factor, a score, a mask). `Ledger` has the position of each group's units
in the flat vector; `Rows` maps the vector to entries of parameters, so that one `index_select` and one `torch._foreach`
call serve a whole network of any depth, without device synchronisation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateurs.errors import ModelError
from secateurs.graph.groups import Group, Role


@dataclass(frozen=True)
class Ledger:
    """Position of each group's units in one flat vector.

    >>> ledger = Ledger(("a", "b"), (2, 3))
    >>> ledger.total, ledger.span("b"), {k: v.tolist() for k, v in ledger.split(torch.arange(5)).items()}
    (5, slice(2, 5, None), {'a': [0, 1], 'b': [2, 3, 4]})
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, groups: Iterable[Group]) -> Ledger:
        """The ledger of some groups, in their order."""
        groups = tuple(groups)
        return cls(tuple(group.name for group in groups), tuple(group.units for group in groups))

    @property
    def starts(self) -> tuple[int, ...]:
        """First flat position of each group."""
        return (0, *accumulate(self.sizes))[: len(self.sizes)]

    @property
    def total(self) -> int:
        """Units in all."""
        return sum(self.sizes)

    def span(self, name: str) -> slice:
        """Flat positions of one group."""
        at = self.names.index(name)
        return slice(self.starts[at], self.starts[at] + self.sizes[at])

    def split(self, flat: Tensor) -> dict[str, Tensor]:
        """The flat vector by group, as views."""
        return dict(zip(self.names, flat.split(list(self.sizes)), strict=True))

    def join(self, parts: Mapping[str, Tensor]) -> Tensor:
        """One flat vector from the groups' vectors."""
        return torch.cat([parts[name] for name in self.names]) if self.names else torch.empty(0)

    def group_of(self) -> Tensor:
        """The number of each unit's group, [units]."""
        return torch.repeat_interleave(torch.arange(len(self.sizes)), torch.tensor(self.sizes, dtype=torch.int64))

    def padded(self) -> Tensor:
        """Flat positions as a rectangle [groups, widest], padded by `total`."""
        widest = max(self.sizes, default=0)
        table = torch.full((len(self.sizes), widest), self.total, dtype=torch.int64)
        for at, (start, size) in enumerate(zip(self.starts, self.sizes, strict=True)):
            table[at, :size] = torch.arange(start, start + size)
        return table

    def positions(self, keep: Mapping[str, Sequence[int] | NDArray[np.int64]]) -> Tensor:
        """Flat positions of the kept units (all, of groups not named), to reduce state after pruning."""
        kept = [
            start + np.asarray(keep.get(name, range(size)), dtype=np.int64)
            for name, start, size in zip(self.names, self.starts, self.sizes, strict=True)
        ]
        return torch.from_numpy(np.concatenate(kept)) if kept else torch.empty(0, dtype=torch.int64)


@dataclass(frozen=True)
class Place:
    """The rows of one tensor: one row per position along `dims`, `others` entries each.

    dims = (0,) makes rows of filters, (1, 2, 3) the columns of the im2col matrix, all dimensions single weights.
    """

    tensor: str
    dims: tuple[int, ...]
    full: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of rows."""
        return math.prod(self.full[d] for d in self.dims)

    @property
    def others(self) -> int:
        """Entries per row."""
        return math.prod(n for d, n in enumerate(self.full) if d not in self.dims)

    @property
    def summed(self) -> tuple[int, ...]:
        """The dimensions inside a row."""
        return tuple(d for d in range(len(self.full)) if d not in self.dims)

    @property
    def shape(self) -> tuple[int, ...]:
        """A row vector's shape when it multiplies the tensor: size 1 inside a row."""
        return tuple(n if d in self.dims else 1 for d, n in enumerate(self.full))


@dataclass(frozen=True, eq=False)
class Owned:
    """Row `row[i]` of a place belongs to flat unit `unit[i]`."""

    place: Place
    row: NDArray[np.int64]
    unit: NDArray[np.int64]


class Rows:
    """Rows of tensors, each assigned to a unit of a flat vector."""

    def __init__(self, ledger: Ledger, owned: Sequence[Owned], tensors: Mapping[str, Tensor]) -> None:
        self.ledger = ledger
        self.places = list(dict.fromkeys(piece.place for piece in owned))
        self._tensors = [tensors[place.tensor] for place in self.places]
        self.device = _one_device(self._tensors)
        starts = dict(zip(self.places, accumulate((p.size for p in self.places), initial=0), strict=False))
        self.total = sum(place.size for place in self.places)
        self._unit = _long([piece.unit for piece in owned]).to(self.device)
        self._row = _long([piece.row + starts[piece.place] for piece in owned]).to(self.device)
        # Columns and single weights have their rows in order: no gather is needed.
        self._plain = self.total == ledger.total and bool((self._unit == self._row).all())

    @classmethod
    def filters(
        cls, groups: Sequence[Group], tensors: Mapping[str, Tensor], *, roles: Iterable[Role] = ("out",)
    ) -> Rows:
        """Make units of coupled groups, with the rows of their slices in the given roles."""
        ledger, wanted = Ledger.of(groups), frozenset(roles)
        owned = [
            Owned(
                Place(piece.tensor, (piece.dim,), tuple(tensors[piece.tensor].shape)),
                piece.index.reshape(-1),
                np.repeat(np.arange(group.units) + start, piece.index.shape[1]),
            )
            for group, start in zip(groups, ledger.starts, strict=True)
            for piece in group.slices
            if piece.role in wanted and piece.tensor in tensors
        ]
        return cls(ledger, owned, tensors)

    @classmethod
    def inside(cls, names: Sequence[str], tensors: Mapping[str, Tensor], *, columns: bool) -> Rows:
        """Make units of the columns (all dimensions but the first) or the single weights of each named tensor."""
        first = 1 if columns else 0
        places = [Place(n, tuple(range(first, tensors[n].dim())), tuple(tensors[n].shape)) for n in names]
        ledger = Ledger(tuple(names), tuple(place.size for place in places))
        owned = [
            Owned(place, np.arange(place.size), np.arange(place.size) + start)
            for place, start in zip(places, ledger.starts, strict=True)
        ]
        return cls(ledger, owned, tensors)

    @classmethod
    def layers(cls, weights: Sequence[str], tensors: Mapping[str, Tensor], *, biases: bool = False) -> Rows:
        """Make units of the filters of each named weight, ignoring couplings; optionally with their biases."""
        ledger = Ledger(tuple(weights), tuple(tensors[name].shape[0] for name in weights))
        owned: list[Owned] = []
        for name, start, size in zip(ledger.names, ledger.starts, ledger.sizes, strict=True):
            bias = name.removesuffix("weight") + "bias"
            for tensor in (name, bias) if biases and bias in tensors else (name,):
                place = Place(tensor, (0,), tuple(tensors[tensor].shape))
                owned.append(Owned(place, np.arange(size), np.arange(size) + start))
        return cls(ledger, owned, tensors)

    def relocate(self) -> None:
        """Move to the present device of the tensors: a model may move between Session and attach."""
        self.device = _one_device(self._tensors)
        self._unit, self._row = self._unit.to(self.device), self._row.to(self.device)

    @property
    def tensors(self) -> list[Tensor]:
        """The tensor of each place, detached so that writes do not enter autograd."""
        return [tensor.detach() for tensor in self._tensors]

    @property
    def owners(self) -> list[Tensor]:
        """The model's own tensor of each place, with its gradient."""
        return self._tensors

    def expand(self, values: Tensor, *, fill: float) -> Tensor:
        """Per-row values [rows] from per-unit values [units]; rows that no unit owns get `fill`."""
        if self._plain:
            return values.clone()
        rows = torch.full((self.total,), fill, dtype=values.dtype, device=self.device)
        return rows.index_copy_(0, self._row, values.index_select(0, self._unit))

    def factors(self, rows: Tensor) -> list[Tensor]:
        """Row values of each place as a view that broadcasts over its tensor; changes of `rows` apply to all."""
        parts = rows.split([place.size for place in self.places])
        return [part.view(place.shape) for place, part in zip(self.places, parts, strict=True)]

    def measure(self, of_row: Callable[[Tensor, tuple[int, ...]], Tensor], *, mean: bool = False) -> Tensor:
        """Sum over a unit's rows of `of_row(tensor, dimensions inside a row)`, [units], in float32.

        With `mean`, each row is divided by its number of entries and by the number of rows of its unit: the mean over
        the members of a coupled group of their mean entries, which for a single filter is the mean of the filter.
        """
        total = torch.zeros(self.ledger.total, device=self.device)
        if not self.places:
            return total
        parts = [of_row(t, place.summed).float() for place, t in zip(self.places, self.tensors, strict=True)]
        if mean:
            parts = [part / place.others for part, place in zip(parts, self.places, strict=True)]
        rows = torch.cat([part.reshape(-1) for part in parts])
        if self._plain:
            return rows
        total.index_add_(0, self._unit, rows.index_select(0, self._row))
        return total / self.members().clamp(min=1.0) if mean else total

    def members(self) -> Tensor:
        """Number of rows that each unit owns, [units]."""
        ones = torch.ones(len(self._unit), device=self.device)
        return torch.zeros(self.ledger.total, device=self.device).index_add_(0, self._unit, ones)


def _one_device(tensors: Sequence[Tensor]) -> torch.device:
    devices = {tensor.device for tensor in tensors} or {torch.device("cpu")}
    if len(devices) > 1:
        raise ModelError(
            f"the prunable weights lie on several devices ({', '.join(sorted(map(str, devices)))}). Per-unit state "
            f"is "
            "one vector on one device. Train with data parallelism, or move the model to one device."
        )
    return devices.pop()


def l1(tensor: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Sum of magnitudes over `dims`."""
    return torch.linalg.vector_norm(tensor, 1, dim=dims) if dims else tensor.abs()


def squares(tensor: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Sum of squares over `dims`."""
    return torch.linalg.vector_norm(tensor, 2, dim=dims).square() if dims else tensor.square()


def _long(parts: Sequence[NDArray[np.int64]]) -> Tensor:
    return torch.from_numpy(np.concatenate(parts).astype(np.int64)) if parts else torch.empty(0, dtype=torch.int64)
