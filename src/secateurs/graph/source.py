"""The example inputs of a trace, and the way to run the model again on other tensors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from secateurs.graph.recorder import Recorder, Tape, caller
from secateurs.graph.twin import keeps_values, meta_like, quiet, twin_of, watch_calls
from secateurs.network import lock_of
from secateurs.running.aside import aside
from secateurs.running.nested import find_tensors, map_tensors

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from secateurs.graph.rules import Table
    from secateurs.network import Network

    Kept = Mapping[tuple[str, int], NDArray[Any]]
    Indices = dict[str, dict[int, NDArray[Any]]]

_TRANSPARENT = ("torch.nn.", "torchvision.ops.stochastic_depth", "timm.layers.drop", "torch.ao.")


@dataclass(frozen=True)
class Source:
    """The example inputs of a trace, with all that is needed to run the model again, on meta or on real tensors."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    real: bool
    passes: tuple[bool, ...]
    dtypes: Mapping[str, torch.dtype]
    rules: Table
    cold: bool = False
    """True if the twin starts without tensors that earlier forwards of the model stored in dictionaries."""

    def tape(
        self,
        view: Network,
        *,
        training: bool = False,
        kept: Kept | None = None,
        attributes: Mapping[tuple[int, str], Any] | None = None,
        silent: Kept | None = None,
    ) -> Tape:
        """Record one forward pass of a model's twin.

        `kept` shrinks tensors: (name, dim) -> kept indices. `silent` zeroes entries instead (real tensors only).
        An error of the forward is kept in `tape.error` (and its last operator has no result).
        """
        tape = Tape(rules=self.rules, real=self.real)

        def run(check: Callable[[], None]) -> None:
            with quiet(view, real=self.real):
                with lock_of(view.model):
                    twins = self._twins(view, tape, _by_name(kept), _by_name(silent))
                replica = twin_of(view, twins, training=training, attributes=attributes, cold=self.cold)
                args, kwargs = (map_tensors(v, self._input(tape)) for v in (self.args, self.kwargs))
                recorder = Recorder(tape, twins, replica.paths, check)
                watch_calls(replica, caller(recorder))
                try:
                    with recorder:
                        output = replica.model(*args, **kwargs)
                    tape.outputs, tape.returned = find_tensors(output), type(output).__name__
                    tape.refilled = replica.refilled
                except Exception as error:  # noqa: BLE001 (any user code; the caller decides)
                    tape.error = error
                finally:
                    replica.release()

        aside(run)
        return tape

    def _twins(self, view: Network, tape: Tape, kept: Indices, silent: Indices) -> dict[int, Tensor]:
        """A twin of every tensor, by the identity of the original."""
        twins: dict[int, Tensor] = {}
        for name, tensor in view.tensors.items():
            dtype = self.dtypes.get(name, tensor.dtype)
            if self.real or keeps_values(tensor):
                twin = _twin(tensor, dtype, kept.get(name), silent.get(name))
            elif name in kept:
                shape = list(tensor.shape)
                for dim, index in kept[name].items():
                    shape[dim] = len(index)
                twin = meta_like(tensor, shape, dtype)
            else:
                twin = meta_like(tensor, None, dtype)
            twins[id(tensor)] = twin
            tape.origins[id(twin)] = name
        tape.keep.append(twins)
        return twins

    def _input(self, tape: Tape) -> Callable[[Tensor], Tensor]:
        def change(tensor: Tensor) -> Tensor:
            fed = tensor.detach().clone() if self.real else meta_like(tensor)
            tape.inputs.append(fed)
            return fed

        return change


def _by_name(indices: Kept | None) -> Indices:
    found: Indices = {}
    for (name, dim), index in (indices or {}).items():
        found.setdefault(name, {})[dim] = index
    return found


def _twin(tensor: Tensor, dtype: torch.dtype, kept: Any, silent: Any) -> Tensor:
    """Return a copy of a tensor with some entries dropped, or zeroed."""
    twin = tensor.detach().to(dtype)
    for dim, index in (kept or {}).items():
        twin = twin.index_select(dim, torch.as_tensor(index, device=twin.device))
    if silent:
        twin = twin.clone()
        for dim, index in silent.items():
            twin.index_fill_(dim, torch.as_tensor(index, device=twin.device), 0)
    return twin.clone() if twin.data_ptr() == tensor.data_ptr() and not isinstance(tensor, nn.Parameter) else twin


@cache
def _reads_training(kind: type[nn.Module]) -> bool:
    """True if a module class of the user's reads `self.training`, so that its training forward may differ."""
    if f"{kind.__module__}.".startswith(_TRANSPARENT):
        return False
    for base in kind.__mro__:
        if f"{base.__module__}.".startswith(_TRANSPARENT) or base in (nn.Module, object):
            continue
        for member in vars(base).values():
            code = getattr(getattr(member, "__func__", member), "__code__", None)
            if code is not None and "training" in code.co_names:
                return True
    return False


def differs_in_training(view: Network) -> bool:
    """True if any part of the model may run other code in training (auxiliary heads, losses inside)."""
    return any(_reads_training(type(m)) for m in view.modules.values())
