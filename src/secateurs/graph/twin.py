"""Twins: copies of a model's module objects around other tensors, which are run instead of the model."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from secateurs.network import is_torchs
from secateurs.running.process import process_kept
from secateurs.running.replica import Replica

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    from secateurs.network import Network

_META = torch.device("meta")
_SMALL = 1 << 20
"""Integer and boolean buffers up to this size keep their values in the twin, since code may index by them."""


def meta_like(tensor: Tensor, shape: Sequence[int] | None = None, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor without storage, of the same dtype and, unless another shape is given, the same strides."""
    dtype = dtype or tensor.dtype
    if shape is not None and tuple(shape) != tensor.shape:
        return torch.empty(shape, dtype=dtype, device=_META)
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=dtype, device=_META)


def keeps_values(tensor: Tensor) -> bool:
    """True if the twin needs the tensor's values: small integer buffers (indices, masks), counters excepted."""
    kind = tensor.dtype
    return not kind.is_floating_point and not kind.is_complex and tensor.dim() > 0 and tensor.numel() <= _SMALL


def twin_of(
    network: Network,
    tensors: Mapping[int, Tensor],
    *,
    training: bool = False,
    attributes: Mapping[tuple[int, str], Any] | None = None,
    cold: bool = False,
) -> Replica:
    """A replica on `tensors` (id of the original -> the one in its place), in eval mode.

    `attributes` maps (id of a module, attribute) to the value it has in the twin. `training` concerns the user's own
    modules: torch's norms and dropouts compute the same operators, so that they stay in eval mode (and a batch norm
    over one value does not complain). `cold` leaves out tensors that earlier forwards stored.
    """
    replica = Replica(network, tensors, attributes, cold=cold)
    for module in replica.modules:
        module.__dict__["training"] = training and not is_torchs(type(module))
    return replica


def watch_calls(replica: Replica, call: Callable[..., Any]) -> None:
    """Replace every module's call by `call(module, *args, **kwargs)`, through the attribute for compiled calls."""
    for module in replica.modules:
        module.__dict__["_compiled_call_impl"] = partial(call, module)


@contextmanager
def quiet(network: Network, *, real: bool) -> Generator[None]:
    """Run without gradients, autocast and inference mode, and restore all process-wide state afterwards.

    On meta, attention takes no fused path anyway.
    """
    device = network.device if real else _META
    plain = torch.autocast("cpu", enabled=False)
    with process_kept(device, unfused=real), torch.inference_mode(mode=False), torch.no_grad(), plain:
        yield
