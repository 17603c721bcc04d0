"""All-reduce statistics so that every DDP rank removes the same units."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """Reductions over the processes of the default group; without effect in a single process."""

    @property
    def size(self) -> int:
        """Number of processes that train together (the world size).

        >>> Ranks().size
        1
        """
        return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, bit-identical on each."""
        if self.size == 1:
            return tensor
        whole = tensor.clone()
        dist.all_reduce(whole)
        return whole

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean over all processes."""
        return self.sum(tensor) / self.size

    def first(self, make: Callable[[], T]) -> T:
        """Return the first process's value on every process, for choices that depend on its data."""
        if self.size == 1:
            return make()
        same: list[Any] = [make() if dist.get_rank() == 0 else None]
        dist.broadcast_object_list(same, src=0)
        return same[0]
