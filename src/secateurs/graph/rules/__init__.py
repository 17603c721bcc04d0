"""Rules: how labels pass through an operator. Write one for an operator of your own, or one that is unknown here.

Every index of every dimension of every tensor has a label, which says which unit (coupled channels) it belongs to. A
*rule* is a function of the labels `p` and one recorded operator `op` (`op.func`, `op.args`, `op.kwargs`, `op.out`):

| call | effect |
|---|---|
| `p.get(tensor)` | the labels of a tensor: `.axes`, one a dimension; `.zero`: are removed units exactly 0 in it |
| `p.meet(a, b)` | two axes of one size meet element by element: they are removed together; gives their common labels |
| `p.fresh(axis)` | the labels of an axis that passes on unchanged |
| `p.guard(axis, reason)` | its units are never removed, and `graph.protected` says why |
| `p.inexact(axis)` | the operator averages or compares over these units: removing them differs from zeroing them |
| `p.set(tensor, axes, zero=...)` | the labels of a result; `None` for an axis that no parameter decides |

`p.set` says `zero=True` only if entries are exactly 0 where all arguments' entries of that unit are. Every rule
is tested on a shrunken copy of the network before `trace` returns: the units of a wrong rule are protected.

A sum with a factor, as a library's fused kernel computes it, and the rule for it:

>>> import torch
>>> from torch import Tensor, nn
>>> @torch.library.custom_op("secateurs_example::scaled_add", mutates_args=())
... def scaled_add(a: Tensor, b: Tensor, factor: float) -> Tensor:
...     return a + factor * b
>>> @scaled_add.register_fake
... def _(a, b, factor):
...     return torch.empty_like(a)
>>> def scaled_add_rule(p, op):
...     a, b = p.get(op.args[0]), p.get(op.args[1])
...     p.set(op.out, tuple(p.meet(x, y) for x, y in zip(a.axes, b.axes)), zero=a.zero and b.zero)
>>> class Net(nn.Module):
...     def __init__(self):
...         super().__init__()
...         self.a, self.b, self.head = nn.Linear(3, 8), nn.Linear(3, 8), nn.Linear(8, 2)
...
...     def forward(self, x):
...         return self.head(scaled_add(self.a(x), self.b(x), 0.5))
>>> from secateurs import trace
>>> trace(Net(), torch.zeros(1, 3)).groups  # without the rule everything around the operator is protected
()
>>> trace(Net(), torch.zeros(1, 3), rules={scaled_add: scaled_add_rule}).groups
(Group('a', 8 units, 5 slices),)

`rules=` is for one trace; `@rule(scaled_add)` above the function would be for all. An operator that is a
composition of others needs no rule, only the composition; its cost is then counted too:

>>> fused = Composition(lambda a, b, factor: a + factor * b)
>>> trace(Net(), torch.zeros(1, 3), rules={scaled_add: fused}).groups
(Group('a', 8 units, 5 slices),)

`secateurs.testing.check_rule` compares removed with zeroed units on a small network with a rule.
"""

from collections.abc import Mapping
from typing import Any

from secateurs.graph.rules import (
    contract,
    factories,
    in_place,
    indexed,
    joining,
    norm,
    pointwise,
    reduce,
    reorder,
    reshape,
    slicing,
    windows,
)
from secateurs.graph.rules.table import Composition, Rule, Table, rule

__all__ = [
    "Composition",
    "Rule",
    "Rules",
    "Table",
    "contract",
    "factories",
    "in_place",
    "indexed",
    "joining",
    "norm",
    "pointwise",
    "reduce",
    "reorder",
    "reshape",
    "rule",
    "slicing",
    "table",
    "windows",
]

Rules = Mapping[Any, Rule | Composition]
"""Operator -> its rule."""


def table(own: Rules | None = None) -> Table:
    """Return the rules of one trace: the user's own, then the library's; point-wise operators share one.

    Whatever else is unknown protects its units.
    """
    return Table(own, lambda func: pointwise.pointwise if pointwise.is_pointwise(func) else pointwise.unknown)
