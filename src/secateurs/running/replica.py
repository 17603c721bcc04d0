"""Replicas: shallow copies of a model's module objects with the same or other tensors, run instead of the model.

A forward may write to its module: a counter, a cache, a hook's list. In a replica, everything that it can write to is a
copy: the modules, their containers and plain objects (at any nesting), functions and bound methods that refer to them,
and caches of methods. Objects that are only read are shared: parameters, functions, classes.
"""

from __future__ import annotations

import copy as copies
import functools
import random
import types
import weakref
from collections import Counter, OrderedDict, defaultdict, deque
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from secateurs.network import lock_of
from secateurs.running.caches import TORCHS, stored_tensors
from secateurs.running.writable import PLAIN, blank, is_plain, of_class

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from secateurs.network import Network

_SMALL = 1 << 20
"""Tensors that are neither parameters nor buffers are copied up to this size; larger ones are assumed read-only."""
_CALLED = frozenset({types.FunctionType, types.MethodType, partial})
_DEPTH = 2
"""Nesting depth to which plain objects are copied; deeper ones belong to a trainer or application, not to the model."""
_HELD = ("_parameters", "_buffers")


class Replica:
    """A copy of a model: call `model`; `paths` maps the id of each of its modules to its name."""

    def __init__(
        self,
        network: Network,
        tensors: Mapping[int, Tensor] | None = None,
        attributes: Mapping[tuple[int, str], Any] | None = None,
        *,
        cold: bool = False,
        around: bool = True,
    ) -> None:
        """`tensors`: id of an original tensor -> its replacement; all others are shared.

        `attributes` maps (identity of the original module, name) to a value that the replica's module has instead.
        `cold` leaves out the tensors that earlier forwards have stored in dictionaries. `around`: whether containers
        referenced only by a function's closure are copied as well; otherwise, hooks still write into the originals.
        """
        self._known: dict[int, Any] = {} if tensors is None else dict(tensors)
        self._alive: list[Any] = []  # an identity is one as long as its object lives
        self._depth = 0
        self._around = around
        self._later: list[tuple[dict[str, Any], str]] = []
        if tensors is None:
            self._known.update((id(t), t) for t in network.named.values())
        self.paths: dict[int, str] = {}
        with lock_of(network.model):
            pairs = [(module, blank(module)) for module in network.modules.values()]
            for (path, module), (_, copy) in zip(network.modules.items(), pairs, strict=True):
                self._known[id(module)] = copy
                self.paths[id(copy)] = path
            for module, copy in pairs:
                self._fill(module, copy, network.held[id(module)])
            for state, name in self._later:
                state[name] = self._copy(state[name])
        for (identity, name), value in (attributes or {}).items():
            self._known[identity].__dict__[name] = value
        self._emptied: list[dict[Any, Any]] = []
        if cold:
            for store, key in stored_tensors(network):
                copy = self._known.get(id(store), {})
                if key in copy:
                    del copy[key]
                    self._emptied.append(copy)
        self.model: nn.Module = self._known[id(network.model)]
        self.modules: tuple[nn.Module, ...] = tuple(copy for _, copy in pairs)

    @property
    def refilled(self) -> bool:
        """True if the forward filled every dictionary that was emptied before it, so that these were caches."""
        return all(self._emptied)

    def release(self) -> None:
        """Break the reference cycles between the copied modules, so that their memory is freed at once."""
        for copy in self.modules:
            copy.__dict__.clear()
        self._known.clear()
        self._alive.clear()

    def _fill(self, module: nn.Module, copy: nn.Module, held: tuple[Any, Any] | None = None) -> None:
        state = module.__dict__.copy()
        if held is not None:
            known = self._known
            for name, own in zip(_HELD, held, strict=True):
                state[name] = {k: None if t is None else known.get(id(t), t) for k, t in own.items()}
        for name, value in state.items():
            kind = type(value)
            if kind in PLAIN or (held is not None and name in _HELD):
                continue
            if name in TORCHS and not value:
                state[name] = kind()  # the commonest case, and never shared by two modules
            elif name in TORCHS and held is not None:
                self._later.append((state, name))  # hooks refer to objects of the modules
            elif kind is not tuple or not PLAIN.issuperset(map(type, value)):
                state[name] = self._copy(value)
        for name, value in of_class(type(module)):
            if name not in state:
                state[name] = self._own(value, copy)
        if "_compiled_call_impl" in state:
            state["_compiled_call_impl"] = None
        object.__setattr__(copy, "__dict__", state)

    def _own(self, value: Any, copy: nn.Module) -> Any:
        """Return an instance's own copy of an attribute that all instances of a class share (container, cache)."""
        if isinstance(value, functools._lru_cache_wrapper):  # noqa: SLF001
            method = types.MethodType(value.__wrapped__, copy)
            return functools.lru_cache(**value.cache_parameters())(method)
        return self._copy(value)

    def _copy(self, value: Any) -> Any:
        """Return the replica's counterpart of a value of the model."""
        kind = type(value)
        if kind in PLAIN:
            return value
        if id(value) in self._known:
            return self._known[id(value)]
        copier = _copier_of(kind)
        if copier is None:
            return value
        self._alive.append(value)
        return copier(self, value)

    # --- one method a kind of value; those that can hold themselves are known before they are filled ---

    def _module(self, value: nn.Module) -> nn.Module:
        copy = self._known[id(value)] = blank(value)
        self._fill(value, copy)
        return copy

    def _tensor(self, value: Tensor) -> Tensor:
        small = not value.is_meta and value.numel() <= _SMALL and not isinstance(value, nn.Parameter)
        copy = self._known[id(value)] = value.detach().clone() if small else value
        return copy

    def _dict(self, value: dict[Any, Any]) -> Any:
        base: Any = OrderedDict if isinstance(value, OrderedDict) else dict
        copy = self._known[id(value)] = _empty(self, value)
        for k, v in list(base.items(value)) if value else ():
            base.__setitem__(copy, self._copy(k), self._copy(v))
        return copy

    def _list(self, value: list[Any]) -> Any:
        copy = self._known[id(value)] = _empty(self, value)
        list.extend(copy, map(self._copy, list(value)))
        return copy

    def _set(self, value: set[Any]) -> Any:
        copy = self._known[id(value)] = _empty(self, value)
        set.update(copy, map(self._copy, set(value)))
        return copy

    def _deque(self, value: deque[Any]) -> Any:
        copy: deque[Any] = deque(maxlen=value.maxlen)
        self._known[id(value)] = copy
        copy.extend(map(self._copy, value.copy()))
        return copy

    def _tuple(self, value: tuple[Any, ...]) -> Any:
        entries = [self._copy(v) for v in value]
        if all(a is b for a, b in zip(entries, value, strict=True)):
            return value
        return type(value)(*entries) if hasattr(value, "_fields") else type(value)(entries)

    def _frozenset(self, value: frozenset[Any]) -> Any:
        return frozenset(map(self._copy, value))

    def _method(self, value: types.MethodType) -> Any:
        return types.MethodType(self._copy(value.__func__), self._copy(value.__self__))

    def _partial(self, value: partial[Any]) -> Any:
        keywords = {k: self._copy(v) for k, v in value.keywords.items()}
        return type(value)(self._copy(value.func), *map(self._copy, value.args), **keywords)

    def _function(self, value: types.FunctionType) -> Any:
        """A function that refers to variables around it: hooks often keep a module or a list there."""
        if value.__closure__ is None or value.__module__.startswith("torch."):
            return value
        cells = tuple(map(self._cell, value.__closure__))
        if all(a is b for a, b in zip(cells, value.__closure__, strict=True)):
            return value
        copy = types.FunctionType(value.__code__, value.__globals__, value.__name__, value.__defaults__, cells)
        copy.__kwdefaults__, copy.__qualname__, copy.__module__ = (
            value.__kwdefaults__,
            value.__qualname__,
            value.__module__,
        )
        copy.__dict__.update(value.__dict__)
        self._known[id(value)] = copy
        return copy

    def _cell(self, cell: types.CellType) -> types.CellType:
        if id(cell) in self._known:
            return self._known[id(cell)]
        self._alive.append(cell)
        self._known[id(cell)] = cell
        try:
            content = cell.cell_contents
        except ValueError:  # not assigned yet
            return cell
        if not self._around and type(content) not in _CALLED and id(content) not in self._known:
            return cell
        copy = self._copy(content)
        if copy is not content:
            cell = self._known[id(cell)] = types.CellType(copy)
        return cell

    def _cached(self, value: Any) -> Any:
        return functools.lru_cache(**value.cache_parameters())(self._copy(value.__wrapped__))

    def _reference(self, value: weakref.ref[Any]) -> Any:
        target = value()
        copy = self._known.get(id(target), target)
        return value if copy is target else weakref.ref(copy)

    def _object(self, value: Any) -> Any:
        if self._depth >= _DEPTH:
            return value
        kind: Any = type(value)
        copy = self._known[id(value)] = kind.__new__(kind)
        self._depth += 1
        copy.__dict__.update({k: self._copy(v) for k, v in value.__dict__.copy().items()})
        self._depth -= 1
        return copy

    def _drawn_from(self, value: Any) -> Any:
        """A random generator of the model's own."""
        copy = value.clone_state() if isinstance(value, torch.Generator) else copies.deepcopy(value)
        self._known[id(value)] = copy
        return copy

    def _array(self, value: Any) -> Any:
        copy = self._known[id(value)] = value.copy() if value.size <= _SMALL else value
        return copy


_COPIERS: dict[type, Callable[[Replica, Any], Any]] = {
    dict: Replica._dict,  # noqa: SLF001
    list: Replica._list,  # noqa: SLF001
    set: Replica._set,  # noqa: SLF001
    tuple: Replica._tuple,  # noqa: SLF001
    frozenset: Replica._frozenset,  # noqa: SLF001
    deque: Replica._deque,  # noqa: SLF001
    partial: Replica._partial,  # noqa: SLF001
    Tensor: Replica._tensor,  # noqa: SLF001
    nn.Module: Replica._module,  # noqa: SLF001
    types.MethodType: Replica._method,  # noqa: SLF001
    types.FunctionType: Replica._function,  # noqa: SLF001
    functools._lru_cache_wrapper: Replica._cached,  # noqa: SLF001
    weakref.ref: Replica._reference,  # noqa: SLF001
    np.ndarray: Replica._array,  # noqa: SLF001
    **dict.fromkeys((torch.Generator, random.Random, np.random.Generator, np.random.RandomState), Replica._drawn_from),  # noqa: SLF001
}


@cache
def _copier_of(kind: type) -> Callable[[Replica, Any], Any] | None:
    """Return the function that copies values of a class; None for classes whose values are shared."""
    for base in kind.__mro__:
        if base in _COPIERS:
            return _COPIERS[base]
    return Replica._object if is_plain(kind) else None  # noqa: SLF001


def _empty(replica: Replica, value: Any) -> Any:
    """An empty container of the same class, with the same attributes."""
    kind: Any = type(value)
    if kind in (dict, list, set, OrderedDict, Counter):
        return kind()
    copy = kind.__new__(kind)
    if isinstance(value, defaultdict):
        copy.default_factory = replica._copy(value.default_factory)  # noqa: SLF001
    if hasattr(value, "__dict__"):
        copy.__dict__.update(value.__dict__)
    return copy
