"""The table of rules: operator -> how labels pass through it. The engine reads it, and knows no operator itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from secateurs.errors import InputError

if TYPE_CHECKING:
    from secateurs.graph.propagate import Propagation
    from secateurs.graph.recorder import Op

Rule = Callable[["Propagation", "Op"], None]
"""Reads the labels of an operator's arguments, and sets those of its results."""

RULES: dict[Any, Rule] = {}
"""Rules for ATen operators, and those of programs that call `rule`."""

NAMED_RULES: dict[str, Rule] = {}
"""Rules for operators of other libraries, by qualified name: they may not be installed."""


@dataclass(frozen=True)
class Composition:
    """A rule for an operator that is a composition of known operators, such as a fused layer.

    function: takes the operator's arguments and computes its result with operators that have rules. It is recorded
    instead of the operator, so that labels, costs and layers are found as if the model had been written so.
    """

    function: Callable[..., Any]


def rule(*operators: Any) -> Callable[[Rule], Rule]:
    """Register a rule for these operators, for every trace from now on.

    operators: overloads (`torch.ops.aten.relu.default`), packets of them (`torch.ops.my_library.scaled_add`), or what
    `torch.library.custom_op` returns. InputError for anything else.
    """
    found = [one for operator in operators for one in overloads(operator)]

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(found, function))
        return function

    return register


def overloads(operator: Any) -> Iterable[Any]:
    """Return the overloads of an operator."""
    operator = getattr(operator, "_opoverload", operator)
    if isinstance(operator, torch._ops.OpOverload):
        return [operator]
    if isinstance(operator, torch._ops.OpOverloadPacket):
        return [getattr(operator, name) for name in operator.overloads()]
    message = f"{operator!r} is no operator. Rules are for operators, such as torch.ops.my_library.my_operator."
    raise InputError(message)


class Table(dict[Any, Rule]):
    """The rules of one trace: the user's own, then the library's, then the default for operators without a rule."""

    def __init__(self, own: Mapping[Any, Rule | Composition] | None, otherwise: Callable[[Any], Rule]) -> None:
        """own: operator -> rule, for this trace only. otherwise: operator -> the rule of one that has none."""
        super().__init__()
        self.compositions: dict[Any, Callable[..., Any]] = {}
        self._otherwise = otherwise
        for operator, given in (own or {}).items():
            if not isinstance(given, Composition) and not callable(given):
                message = f"rules={{{operator}: {given!r}}} gives no rule. A rule is a function of (labels, operator)."
                raise InputError(message)
            for one in overloads(operator):
                if isinstance(given, Composition):
                    self.compositions[one] = given.function
                else:
                    self[one] = given

    def __missing__(self, operator: Any) -> Rule:
        found = RULES.get(operator) or NAMED_RULES.get(operator.name()) or self._otherwise(operator)
        self[operator] = found
        return found
