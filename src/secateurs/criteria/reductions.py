"""Reductions over slices: from tensors by name to one number, or one row, a unit.

Every criterion is built from these and so is independent of layer types. A slice lists the entries along one dimension
that belong to each unit; a reduction sums over all other dimensions, then over the entries of the unit.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from secateurs.errors import EvidenceError
from secateurs.evidence.kinds import Weights
from secateurs.graph.groups import Group, Role, Slice

_BLOCK = 1 << 17
"""Entries per block: |w| of a block stays in cache, and no temporary of the size of a weight is allocated."""


def of_roles(group: Group, roles: tuple[Role, ...] | None, *, among: frozenset[str], why: str) -> tuple[Slice, ...]:
    """Return the slices of `group` in the tensors `among`, with one of `roles` (None: any); refuse none at all."""
    found = tuple(s for s in group.slices if s.tensor in among and (roles is None or s.role in roles))
    if not found:
        has = ", ".join(sorted({f"{s.tensor} ({s.role})" for s in group.slices})) or "nothing"
        wanted = "parameter" if roles is None else "parameter with role " + " or ".join(map(repr, roles))
        msg = f"{why} scores group {group.name!r} by a {wanted}, and it has none: it has {has}. {_REMEDY}"
        raise EvidenceError(msg)
    return found


_REMEDY = "Use other roles or another criterion, or exclude the group."


def per_unit(per_entry: Tensor, slice_: Slice) -> Tensor:
    """Sum a vector [D] over the entries of each unit: [units]. With `index` the identity this is the vector itself.

    >>> import numpy as np
    >>> per_unit(torch.tensor([1.0, 2.0, 4.0, 8.0]), Slice("w", 0, np.array([[0, 2], [1, 3]]))).tolist()
    [5.0, 10.0]
    """
    if slice_.index.shape[0] == per_entry.shape[0] and slice_.in_order:
        return per_entry
    index = torch.as_tensor(slice_.index, device=per_entry.device)
    return per_entry[index].sum(1)


def power_sum(weights: Weights, slice_: Slice, p: int) -> Tensor:
    """Sum |w|^p over all entries of each unit: float64 [units], for p = 1 or 2.

    The tensor is read once: its sums along the first two dimensions are kept with the evidence.

    >>> import numpy as np
    >>> weights = Weights({"w": torch.tensor([[3.0, -4.0], [0.0, 1.0]])})
    >>> power_sum(weights, Slice("w", 0, np.array([[0], [1]])), 2).tolist()
    [25.0, 1.0]
    """
    tensor = weights.tensors[slice_.tensor]
    if tensor.dim() == 1:
        return per_unit(_powered(tensor, p).double(), slice_)
    if slice_.dim > 1 or not tensor.is_contiguous():
        return per_unit(_power_columns(_cube(tensor, slice_.dim), p), slice_)
    key = (slice_.tensor, tensor._version, p)  # noqa: SLF001 (a written tensor has another version)
    if key not in weights.reduced:
        weights.reduced[key] = _power_sums(tensor, p)
    return per_unit(weights.reduced[key][slice_.dim], slice_)


def dot(a: Tensor, b: Tensor, slice_: Slice) -> Tensor:
    """Sum a * b over all entries of each unit: float64 [units].

    >>> import numpy as np
    >>> dot(torch.ones(2, 3), torch.arange(6.0).reshape(2, 3), Slice("w", 1, np.array([[0], [1], [2]]))).tolist()
    [3.0, 5.0, 7.0]
    """
    wide = torch.promote_types(a.dtype, torch.float32)
    product = a.to(wide) * b.to(wide)
    others = [dim for dim in range(product.dim()) if dim != slice_.dim % product.dim()]
    summed = product.sum(others, dtype=torch.float64) if others else product.double()
    return per_unit(summed, slice_)


def rows(tensor: Tensor, slice_: Slice) -> Tensor:
    """Return the entries of each unit as a row: [units, features]; a view where the units are the rows of the tensor.

    >>> import numpy as np
    >>> rows(torch.arange(6.0).reshape(2, 3), Slice("w", 1, np.array([[2], [0]]))).tolist()
    [[2.0, 5.0], [0.0, 3.0]]
    """
    if slice_.dim == 0 and len(tensor) == len(slice_.index) and slice_.in_order:
        return tensor.reshape(len(tensor), -1)
    index = torch.as_tensor(slice_.index.reshape(-1), device=tensor.device)
    return tensor.movedim(slice_.dim, 0).index_select(0, index).reshape(slice_.index.shape[0], -1)


def _cube(tensor: Tensor, dim: int) -> Tensor:
    """View a tensor as [before, D, after] in memory order, whatever its layout (the order does not matter for sums)."""
    order = sorted(range(tensor.dim()), key=lambda d: -tensor.stride(d))
    place = order.index(dim % tensor.dim())
    ordered = tensor.permute(order)
    return ordered.reshape(prod(ordered.shape[:place]), ordered.shape[place], -1)


def _powered(block: Tensor, p: int) -> Tensor:
    block = block.to(torch.promote_types(block.dtype, torch.float32))
    return block.abs() if p == 1 else block * block


def _power_sums(tensor: Tensor, p: int) -> tuple[Tensor, Tensor]:
    """Sum |x|^p of a contiguous [O, I, ...] over all dimensions but the first, and over all but the second."""
    flat = tensor.flatten(1)
    rows: list[Tensor] = []
    columns = torch.zeros(flat.shape[1], dtype=torch.float64, device=flat.device)
    for block in flat.split(max(1, _BLOCK // max(flat.shape[1], 1))):
        powered = _powered(block, p)
        rows.append(powered.sum(1))
        columns += powered.sum(0)
    return torch.cat(rows).double(), columns.reshape(tensor.shape[1], -1).sum(1)


def _power_columns(cube: Tensor, p: int) -> Tensor:
    """Sum |x|^p over all but the middle dimension of [before, D, after]."""
    flat = cube.flatten(1)
    total = torch.zeros(flat.shape[1], dtype=torch.float64, device=cube.device)
    for block in flat.split(max(1, _BLOCK // max(flat.shape[1], 1))):
        total += _powered(block, p).sum(0)
    return total.reshape(cube.shape[1:]).sum(1)
