"""Find tensors that a forward cached in a dictionary attribute of its module, for later forwards to reuse."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from secateurs.running.writable import PLAIN, of_class

if TYPE_CHECKING:
    from secateurs.network import Network

TORCHS = frozenset(name for name, value in vars(nn.Module()).items() if isinstance(value, dict))
"""The dictionaries that every module has: hooks, children, tensors."""


def stored_tensors(network: Network) -> list[tuple[dict[Any, Any], Any]]:
    """Return every (dictionary of a module, key) whose value holds tensors that are neither parameters nor buffers.

    >>> from secateurs.network import Network
    >>> module = nn.Linear(2, 2)
    >>> module.masks = {(2, 2): module.weight.detach() > 0, "size": 2, "bias": module.bias}
    >>> [key for _, key in stored_tensors(Network.of(module))]
    [(2, 2)]
    """
    known = {id(tensor) for tensor in network.tensors.values()}
    found: list[tuple[dict[Any, Any], Any]] = []
    seen: set[int] = set()
    for module in network.modules.values():
        own = vars(module)
        for name, value in own.items():
            if type(value) not in PLAIN and name not in TORCHS:
                _look(value, known, seen, found)
        for name, value in of_class(type(module)):
            if name not in own:
                _look(value, known, seen, found)
    return found


def _look(value: Any, known: set[int], seen: set[int], found: list[tuple[dict[Any, Any], Any]]) -> None:
    """Search a container and those inside it."""
    if not isinstance(value, (dict, list, tuple)) or id(value) in seen:
        return
    seen.add(id(value))
    if not isinstance(value, dict):
        for entry in list(value):
            _look(entry, known, seen, found)
        return
    for key, entry in list(value.items()):
        if _stored(entry, known):
            found.append((value, key))
        else:
            _look(entry, known, seen, found)


def _stored(entry: Any, known: set[int]) -> bool:
    if isinstance(entry, (tuple, list)):
        return bool(entry) and all(_stored(one, known) for one in entry)
    return isinstance(entry, Tensor) and not isinstance(entry, nn.Parameter) and id(entry) not in known
