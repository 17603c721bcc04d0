"""`Network`: a model's modules and tensors by name, read and checked once; inner functions take this.

A verb takes an `nn.Module` and makes a `Network` of it; an inner function takes the `Network`.
"""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from secateurs.errors import ModelError

_STATISTICS = ("running_mean", "running_var")
Held = dict[str, Tensor | None]
"""A module's own tensors by their names inside it."""

_CLIENTS = {
    "ultralytics": " Or let secateurs.integrations.ultralytics.prune take it whole.",
    "transformers": " secateurs.integrations.huggingface saves and loads what is pruned of it.",
}
"""Package -> hint to the integration for its objects."""

_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)


@dataclass(frozen=True, eq=False)
class Network:
    """A model's modules and tensors by name, read and checked once.

    modules: path -> module, in the order of `named_modules`; a module with several paths keeps the first.
    paths: id of a module -> that path. tensors: name -> parameter or buffer, a tied one under its first name.
    aliases: further name of a tied tensor -> its first. parameters, buffers: the same under all of their names, in the
    order of `named_parameters(remove_duplicate=False)`. held: id of a module -> its own parameters and its own buffers.

    The tensors are the model's own; names are as of the time of reading.

    >>> network = Network.of(nn.Sequential(nn.Linear(4, 2), nn.ReLU()))
    >>> network.shapes
    {'0.weight': (2, 4), '0.bias': (2,)}
    >>> Network.of(network) is network
    True
    """

    model: nn.Module
    modules: dict[str, nn.Module] = field(default_factory=dict[str, nn.Module])
    paths: dict[int, str] = field(default_factory=dict[int, str])
    tensors: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    aliases: dict[str, str] = field(default_factory=dict[str, str])
    parameters: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    buffers: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    held: dict[int, tuple[Held, Held]] = field(default_factory=dict[int, "tuple[Held, Held]"])

    @staticmethod
    def of(model: Any) -> Network:
        """Read and check a model; wrappers (DataParallel, DistributedDataParallel, torch.compile) are taken off.

        Raises: ModelError for anything but an eager `nn.Module` whose tensors are plain memory of their own:
        TorchScript, quantised or lazy modules, sharded or packed tensors. The message says what to do instead.
        """
        if isinstance(model, Network):
            return model
        network = Network(_unwrapped(model))
        network._read()
        for path, module in network.modules.items():
            _refuse_kind(path, module)
        for name, tensor in network.tensors.items():
            _refuse_storage(name, tensor)
        return network

    @property
    def named(self) -> dict[str, Tensor]:
        """Every parameter, then every buffer, under all of its names: a tied tensor appears once for each."""
        return self.parameters | self.buffers

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> the shape it has now, under all names."""
        return {name: tuple(tensor.shape) for name, tensor in self.named.items()}

    @cached_property
    def device(self) -> torch.device:
        """Device of the network's first parameter, or else of its first buffer."""
        first = next(iter(self.named.values()), None)
        return torch.device("cpu") if first is None else first.device

    @cached_property
    def with_values(self) -> Network:
        """The same network, after checking that parameters and running statistics have values, all of them finite.

        Raises: ModelError naming the tensor, and how many of its values are NaN or infinite.
        """
        _refuse_values(self.named)
        return self

    def _read(self) -> None:
        """Walk over the modules once, each under all of its paths, which gives all names of tied tensors."""
        first: dict[int, str] = {}
        pending: list[tuple[str, nn.Module]] = [("", self.model)]
        while pending:
            path, module = pending.pop()
            if id(module) not in self.paths:
                self.paths[id(module)] = path
                self.modules[path] = module
            prefix = f"{path}." if path else ""
            inside = module.__dict__
            if id(module) not in self.held:
                self.held[id(module)] = (dict(inside["_parameters"].items()), dict(inside["_buffers"].items()))
            for found, own in zip((self.parameters, self.buffers), self.held[id(module)], strict=True):
                for name, tensor in own.items():
                    if tensor is None:
                        continue
                    full = prefix + name
                    found[full] = tensor
                    known = first.setdefault(id(tensor), full)
                    if known == full:
                        self.tensors[known] = tensor
                    else:
                        self.aliases[full] = known
            children = [(prefix + name, child) for name, child in inside["_modules"].items() if child is not None]
            pending.extend(reversed(children))


_guard = threading.Lock()
_locks: dict[int, tuple[weakref.ref[nn.Module], threading.RLock]] = {}


def lock_of(model: nn.Module) -> threading.RLock:
    """Return the lock of a model object, held while its tensors are written or copied."""
    key = id(model)
    with _guard:
        if key not in _locks:
            _locks[key] = (weakref.ref(model, lambda _: _locks.pop(key, None)), threading.RLock())
        return _locks[key][1]


@cache
def is_torchs(kind: type[nn.Module]) -> bool:
    """True if a module class is defined in `torch.nn.modules`, so that its forward is known."""
    return kind.__module__.startswith("torch.nn.modules.")


def _unwrapped(model: Any) -> nn.Module:
    """Return the module that holds the weights, without wrappers."""
    while True:
        if isinstance(model, torch.jit.ScriptModule):
            raise ModelError(
                f"{type(model).__name__} is a TorchScript module: its code is frozen and cannot be pruned. "
                "Prune the original nn.Module, then script it again."
            )
        inside = model.module if isinstance(model, _WRAPPERS) else getattr(model, "_orig_mod", None)
        if not isinstance(inside, nn.Module):
            break
        model = inside
    if not isinstance(model, nn.Module):
        raise ModelError(f"A model must be a torch.nn.Module, not {_kind(model)}.{_inside(model)}")
    return model


def _kind(model: Any) -> str:
    return f"the class {model.__name__}" if isinstance(model, type) else f"a {type(model).__name__}"


def _inside(model: Any) -> str:
    """Name the modules inside an object (a pipeline, a trainer), one of which was probably meant."""
    held = getattr(model, "__dict__", {}) if not isinstance(model, type) else {}
    found = [f"its attribute {name!r} (a {type(v).__name__})" for name, v in held.items() if isinstance(v, nn.Module)]
    return f" Pass the network inside it: {' or '.join(found[:3])}.{client_hint(model)}" if found else ""


def client_hint(model: Any) -> str:
    """Return a hint to the integration for an object of another package; empty if there is none."""
    packages = (kind.__module__.partition(".")[0] for kind in type(model).__mro__)
    return next((_CLIENTS[name] for name in packages if name in _CLIENTS), "")


def _refuse_kind(path: str, module: nn.Module) -> None:
    if _is_quantised(type(module)):
        raise ModelError(
            f"{path or 'The model'} is a quantised {type(module).__name__}: its weights are packed integers. "
            "Prune the floating-point model first, then quantise the result."
        )
    if isinstance(module, torch.jit.ScriptModule):
        raise ModelError(f"{path} is a TorchScript module: its code is frozen. Replace it by the original nn.Module.")


@cache
def _is_quantised(kind: type[nn.Module]) -> bool:
    return kind.__module__.startswith(
        ("torch.ao.nn.quantized", "torch.nn.quantized", "torch.ao.nn.intrinsic.quantized")
    )


def _refuse_storage(name: str, tensor: Tensor) -> None:
    """Refuse a tensor that is not plain memory of its own: a shard, a packed format, the result of other tensors."""
    if type(tensor) in (UninitializedBuffer, UninitializedParameter):
        raise ModelError(f"{name} has no shape yet (a lazy module). Run the model once on an example first.")
    if type(tensor.data) is not Tensor:
        raise ModelError(
            f"{name} is a {type(tensor.data).__name__}, not a plain tensor. Its entries do not lie where its shape "
            "says (sharded, packed or quantised). Prune the plain model first, then shard or convert it."
        )
    if tensor.layout is not torch.strided:
        raise ModelError(
            f"{name} has the layout {tensor.layout}: its entries do not lie where its shape says. "
            "Make it dense first: tensor.to_dense()."
        )
    if not tensor.is_leaf:
        raise ModelError(
            f"{name} is the result of a differentiable operation ({tensor.grad_fn}), not a leaf. "
            "Cutting it would cut a graph that autograd still holds. Assign it detached, then try again."
        )


def _refuse_values(named: dict[str, Tensor]) -> None:
    """Refuse parameters and running statistics without values, or with NaN or infinite ones.

    Masks of -inf are common among other buffers and harmless. A finite sum has finite terms; only for sums that are not
    finite (which may have overflowed) are the terms checked, and all sums of one dtype are read together.
    """
    sums: dict[tuple[torch.device, torch.dtype], dict[str, Tensor]] = {}
    for name, tensor in named.items():
        if tensor.is_meta:
            raise ModelError(
                f"{name} is on the meta device: it has a shape and no values. Units cannot be scored without values. "
                "Load the weights (model.to_empty, then load_state_dict) first."
            )
        if isinstance(tensor, nn.Parameter) or name.rpartition(".")[2] in _STATISTICS:
            if tensor.is_floating_point() and tensor.element_size() == 1:
                raise ModelError(
                    f"{name} has the type {tensor.dtype}, in which PyTorch has no sums. Units cannot be scored in it. "
                    "Prune the model in float32 or bfloat16 (model.float()), then convert the result."
                )
            total = tensor.detach().sum()
            sums.setdefault((total.device, total.dtype), {})[name] = total
    for found in sums.values():
        if bool(torch.isfinite(torch.stack(list(found.values()))).all()):
            continue
        for name, total in found.items():
            count = 0 if bool(torch.isfinite(total)) else int((~torch.isfinite(named[name])).sum())
            if count:
                raise ModelError(
                    f"{name} holds {count} values that are NaN or infinite, of {named[name].numel()}. "
                    "Scores and sums over them mean nothing, and would choose units at random. "
                    "Find out where training diverged, and prune a checkpoint from before."
                )
