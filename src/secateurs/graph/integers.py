"""Integers stored in modules, as attributes or as items of lists, tuples and dicts, which may count channels."""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from secateurs.graph.fitting import fitting
from secateurs.network import Network, is_torchs

_PLACE = re.compile(r"(\w+)((?:\[(?:\d+|'[^']*')\])*)")
_ITEM = re.compile(r"\[(\d+|'[^']*')\]")
_KEY = re.compile(r"[\w./ -]*")
_LONGEST = 64
_DEEPEST = 2

WIDTHS = frozenset(
    {
        "groups",
        "num_groups",
        "num_heads",
        "num_features",
        "num_channels",
        "num_parameters",
        "num_embeddings",
        "embedding_dim",
        "normalized_shape",
        "in_channels",
        "out_channels",
        "in_features",
        "in1_features",
        "in2_features",
        "out_features",
        "input_size",
        "hidden_size",
        "proj_size",
    }
)
"""Names of the width attributes of PyTorch's layers; their other constants (stride, kernel size) never change."""

_OWN = frozenset(vars(nn.Module()))


@cache
def constants(kind: type[nn.Module]) -> frozenset[str]:
    """Names in a module class that never count channels: constants of PyTorch's layers, and what every module has.

    >>> "stride" in constants(nn.Conv2d), "groups" in constants(nn.Conv2d)
    (True, False)
    """
    torchs = [base for base in kind.__mro__ if base.__module__.startswith("torch.nn.")]
    return _OWN.union(*(getattr(base, "__constants__", ()) for base in torchs)) - WIDTHS


def whole_numbers(module: nn.Module) -> dict[str, int]:
    """Return place -> value of every integer above 1 in a module of the user's.

    Modules of torch.nn mix widths with kernel sizes and strides, so that they are skipped; multi-head attention,
    whose integers are all widths, is read.

    >>> net = type("Net", (nn.Module,), {})()
    >>> net.width, net.splits = 6, [2, 4]
    >>> whole_numbers(net)
    {'width': 6, 'splits[0]': 2, 'splits[1]': 4}
    """
    if is_torchs(type(module)) and not isinstance(module, nn.MultiheadAttention):
        return {}
    found: dict[str, int] = {}
    fixed = constants(type(module))
    for name, value in vars(module).items():
        if name in fixed:
            continue
        if type(value) is int:
            if value > 1:
                found[name] = value
        elif isinstance(value, (list, tuple, dict)) and not name.startswith("_"):
            found.update(_items(name, value, 1))
    return found


def numbers(network: Network) -> Callable[[str, str], Any]:
    """(module path, attribute) -> its value, or None; for the name "", the whole numbers that count by place.

    Attributes that are computed from the shapes of the module's weights are left out.
    """

    @cache
    def number(path: str, name: str) -> Any:
        module = network.modules.get(path)
        if name:
            return getattr(module, name, None)
        if module is None:
            return {}
        fitted = fitting(module, partial(_shape, module), partial(getattr, module))
        return {place: value for place, value in whole_numbers(module).items() if place.partition("[")[0] not in fitted}

    return number


def _shape(module: nn.Module, name: str) -> tuple[int, ...] | None:
    """Shape of a tensor of a module. A copy computes a parametrised one: spectral normalisation takes a step then."""
    if is_parametrized(module, name):
        every: Any = module.parametrizations
        with torch.no_grad():
            return tuple(copy.deepcopy(every[name])().shape)
    tensor = getattr(module, name, None)
    return tuple(tensor.shape) if isinstance(tensor, Tensor) else None


def _items(place: str, holder: Any, depth: int) -> Iterator[tuple[str, int]]:
    if len(holder) > _LONGEST:
        return
    for key, value in holder.items() if isinstance(holder, dict) else enumerate(holder):
        if type(key) is not int and not (isinstance(key, str) and _KEY.fullmatch(key)):
            continue
        if type(value) is int and value > 1:
            yield f"{place}[{key!r}]", value
        elif isinstance(value, (list, tuple, dict)) and depth < _DEEPEST:
            yield from _items(f"{place}[{key!r}]", value, depth + 1)


def _keys(place: str) -> tuple[str, list[Any]]:
    """The attribute's name, and the keys that lead into it."""
    match = _PLACE.fullmatch(place)
    if match is None:
        return place, []
    return match[1], [ast.literal_eval(key) for key in _ITEM.findall(match[2])]


def held(module: nn.Module, place: str) -> Any:
    """Return the value at a place (attribute, or item inside it) of a module, or None.

    >>> net = nn.Module()
    >>> net.sizes = {"deep": (3, 5)}
    >>> held(net, "sizes['deep'][1]"), held(net, "sizes['flat']")
    (5, None)
    """
    name, keys = _keys(place)
    value = getattr(module, name, None)
    for key in keys:
        try:
            value = value[key]  # type: ignore[index]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def rebuilt(module: nn.Module, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return attribute -> its new value for new values at places; containers are copied, never changed.

    >>> net = nn.Module()
    >>> net.width, net.splits = 6, [2, 4]
    >>> rebuilt(net, {"width": 5, "splits[1]": 3}), net.splits
    ({'width': 5, 'splits': [2, 3]}, [2, 4])
    """
    found: dict[str, Any] = {}
    for place, value in values.items():
        name, keys = _keys(place)
        found[name] = _replaced(found.get(name, getattr(module, name, None)), keys, value)
    return found


def _replaced(holder: Any, keys: list[Any], value: Any) -> Any:
    if not keys:
        return value
    inner = _replaced(holder[keys[0]], keys[1:], value)
    if isinstance(holder, tuple):
        items = [inner if k == keys[0] else item for k, item in enumerate(holder)]
        return type(holder)(*items) if hasattr(holder, "_fields") else type(holder)(items)
    changed = copy.copy(holder)
    changed[keys[0]] = inner
    return changed
