"""Find the module inputs and outputs that carry a group's units, for hooks that gather statistics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from secateurs.graph.groups import Site
from secateurs.graph.label_arrays import Axes
from secateurs.graph.labels import Fresh

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from secateurs.graph.grouping import Units
    from secateurs.graph.recorder import Call

aten = torch.ops.aten
_PARAMETRISED = {
    aten.convolution.default, aten._convolution.default, aten.mm.default, aten.addmm.default, aten.bmm.default,  # noqa: SLF001
    aten.baddbmm.default, aten.embedding.default,
}  # fmt: skip


def find_sites(units: Units, alive: NDArray[np.bool_]) -> list[tuple[Site, ...]]:
    """For every group, each module input and output that carries its units, once, in forward order."""
    ports = list(_ports(units))
    distinct = {id(labels): labels for _, _, _, labels, _, _ in ports}
    members = Axes([units.units(labels) for labels in distinct.values()]).members(alive, units.group_of, units.order)
    spread = dict(zip(distinct, members, strict=True))
    found: list[dict[tuple[str, str, int], Site]] = [{} for _ in units.counts]
    for call, port, dim, labels, parametrised, shape in ports:
        for group, index in spread[id(labels)].items():
            if (call.module, port, dim) not in found[group]:
                side: Any = port
                writes, reads = parametrised and port == "output", parametrised and port == "input"
                found[group][call.module, port, dim] = Site(call.module, side, dim, index, writes, reads, shape)
    return [tuple(f.values()) for f in found]


def _ports(units: Units) -> Iterator[tuple[Call, str, int, Any, bool, tuple[int, ...]]]:
    """Every labelled dimension of every leaf module's first input and output, and the shape."""
    for tape in units.tapes:
        for call in tape.calls:
            parametrised = any(op.func in _PARAMETRISED for op in tape.ops[call.start : call.stop])
            for port, tensor in (("input", _first(call.inputs)), ("output", _first(call.out))):
                lab = units.labs.get(id(tensor)) if tensor is not None else None
                for dim, axis in enumerate(lab.axes if lab is not None else ()):
                    labels = units.params.get((axis.name, axis.dim)) if type(axis) is Fresh else axis
                    if isinstance(labels, np.ndarray):
                        shape = () if tensor is None else tuple(int(n) for n in tensor.shape)
                        yield call, port, dim, labels, parametrised, shape


def _first(value: Any) -> Tensor | None:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, (list, tuple)):
        return next((v for v in value if isinstance(v, Tensor)), None)
    return None
