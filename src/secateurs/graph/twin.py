"""A twin of a model: the same module objects, run for a moment on other tensors.

Nothing is copied. For the time of a `with`, every module's `__dict__` is replaced by a shallow copy that holds the
twin's parameters, buffers, mode and attributes; afterwards the original `__dict__` objects are put back, so that
whatever the forward stored on `self` is gone as well.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from secateurs.network import is_torchs
from secateurs.running.process import process_kept

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    from secateurs.network import Network

_META = torch.device("meta")
_SMALL = 1 << 20
"""Integer and boolean buffers up to this size keep their values in the twin: indices decide what code does."""


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


@contextmanager
def swapped(
    network: Network,
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
        for module in network.modules.values():
            original = module.__dict__
            meanwhile = original.copy()
            for store, held in zip(("_parameters", "_buffers"), network.held[id(module)], strict=True):
                if held:
                    meanwhile[store] = {k: None if t is None else twins[id(t)] for k, t in held.items()}
            meanwhile["training"] = training and not is_torchs(type(module))
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
def quiet(network: Network, *, real: bool) -> Generator[None]:
    """No gradients, no types of autocast, no inference tensors; what the process shares, as it was before.

    On meta, attention takes no fused path anyway.
    """
    device = network.device if real else _META
    plain = torch.autocast("cpu", enabled=False)
    with process_kept(device, unfused=real), torch.inference_mode(mode=False), torch.no_grad(), plain:
        yield
