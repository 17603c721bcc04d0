"""A twin of a model: the same module objects, run for a moment on other tensors.

Nothing is copied. For the time of a `with`, every module's `__dict__` is replaced by a shallow copy that holds the
twin's parameters, buffers, mode and attributes; afterwards the original `__dict__` objects are put back, so that
whatever the forward stored on `self` is gone as well.
"""

from __future__ import annotations

import random
from contextlib import contextmanager
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from secateurs.graph.integers import whole_numbers

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

_META = torch.device("meta")
_SMALL = 1 << 20
"""Integer and boolean buffers up to this size keep their values in the twin: indices decide what code does."""


class View:
    """A model's modules and tensors by name, read once."""

    def __init__(self, model: nn.Module) -> None:
        """Walk the modules in the order of `named_modules`; a module or tensor with several names keeps the first."""
        self.model = model
        self.modules: dict[str, nn.Module] = {}
        self.paths: dict[int, str] = {}
        self.tensors: dict[str, Tensor] = {}
        self.aliases: dict[str, str] = {}
        first: dict[int, str] = {}
        pending: list[tuple[str, nn.Module]] = [("", model)]
        while pending:
            path, module = pending.pop()
            if id(module) not in self.paths:
                self.paths[id(module)] = path
                self.modules[path] = module
            prefix = f"{path}." if path else ""
            held = module.__dict__
            for store in (held["_parameters"], held["_buffers"]):
                for name, tensor in store.items():
                    if tensor is None:
                        continue
                    known = first.setdefault(id(tensor), prefix + name)
                    if known == prefix + name:
                        self.tensors[known] = tensor
                    else:
                        self.aliases[prefix + name] = known
            children = [(prefix + name, child) for name, child in held["_modules"].items() if child is not None]
            pending.extend(reversed(children))

    def attribute(self, path: str, name: str) -> Any:
        """A module's attribute, or None; for the name "", every whole number above 1 that a user's module holds."""
        module = self.modules.get(path)
        if module is None:
            return None if name else {}
        if name:
            return getattr(module, name, None)
        return whole_numbers(module)


def held_tensors(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Parameters and buffers under all of their names, as `named_parameters(remove_duplicate=False)`, but faster."""
    parameters: dict[str, Tensor] = {}
    buffers: dict[str, Tensor] = {}
    pending: list[tuple[str, nn.Module]] = [("", model)]
    while pending:
        prefix, module = pending.pop()
        held = module.__dict__
        for found, store in ((parameters, held["_parameters"]), (buffers, held["_buffers"])):
            for name, tensor in store.items():
                if tensor is not None:
                    found[prefix + name] = tensor
        inside = [(f"{prefix}{name}.", child) for name, child in held["_modules"].items() if child is not None]
        pending.extend(reversed(inside))
    return parameters, buffers


def meta_like(tensor: Tensor, shape: Sequence[int] | None = None, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor without storage, of the same dtype and, unless another shape is given, the same strides."""
    dtype = dtype or tensor.dtype
    if shape is not None and tuple(shape) != tensor.shape:
        return torch.empty(shape, dtype=dtype, device=_META)
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=dtype, device=_META)


def keeps_values(tensor: Tensor) -> bool:
    """Whether the twin needs the tensor's values: small integer buffers (indices, masks), counters excepted."""
    kind = tensor.dtype
    return not kind.is_floating_point and not kind.is_complex and tensor.dim() > 0 and tensor.numel() <= _SMALL


@cache
def _is_torchs(kind: type[nn.Module]) -> bool:
    return kind.__module__.startswith("torch.nn.modules.")


@contextmanager
def swapped(
    view: View,
    twins: Mapping[int, Tensor],
    *,
    training: bool = False,
    attributes: Mapping[tuple[int, str], Any] | None = None,
    call: Callable[..., Any] | None = None,
) -> Generator[None]:
    """Run the model on `twins` (id of the original tensor -> twin) for the time of the `with`.

    `attributes` maps (id of a module, attribute) to the value it has meanwhile; `call(module, *args, **kwargs)` runs in
    place of every module's call, through the entry that a module keeps for its compiled call. `training` concerns the
    user's own modules: torch's norms and dropouts compute the same operators, so that they stay in eval mode (and a
    batch norm over one value does not complain).
    """
    patches: dict[int, dict[str, Any]] = {}
    for (module_id, attribute), value in (attributes or {}).items():
        patches.setdefault(module_id, {})[attribute] = value
    saved: list[tuple[nn.Module, dict[str, Any]]] = []
    set_dict = object.__setattr__
    try:
        for module in view.modules.values():
            original = module.__dict__
            meanwhile = original.copy()
            for store in ("_parameters", "_buffers"):
                held = original[store]
                if held:
                    meanwhile[store] = {k: None if t is None else twins[id(t)] for k, t in held.items()}
            meanwhile["training"] = training and not _is_torchs(type(module))
            meanwhile["_compiled_call_impl"] = partial(call, module) if call is not None else None
            if isinstance(module, nn.RNNBase):
                meanwhile["_flat_weights"] = [twins.get(id(w), w) for w in original["_flat_weights"]]
            if id(module) in patches:
                meanwhile.update(patches[id(module)])
            saved.append((module, original))
            set_dict(module, "__dict__", meanwhile)
        yield
    finally:
        for module, original in saved:
            set_dict(module, "__dict__", original)


@contextmanager
def quiet(*, real: bool) -> Generator[None]:
    """No gradients, no fused attention path that hides its operators, and every random state as it was."""
    fast = torch.backends.mha.get_fastpath_enabled()
    states = (random.getstate(), np.random.get_state())  # noqa: NPY002 (the user's model may use the global state)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        devices = list(range(torch.cuda.device_count())) if real and torch.cuda.is_initialized() else []
        with torch.no_grad(), torch.random.fork_rng(devices=devices), torch.autocast("cpu", enabled=False):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
