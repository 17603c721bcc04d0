"""Training on several devices and machines, started and synchronised by Lightning."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, final

import torch.distributed as dist
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.strategies.ddp import DDPStrategy as FabricStrategy
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import rank_zero_only

from secateurs.app.choices import Strategy
from secateurs.errors import InputError, SecateursError
from secateurs.session.processes import Ranks

T = TypeVar("T")

MOST_NODES = 4096
"""Machines of one training; more is a slip of the keyboard."""

PATIENCE = timedelta(days=2)
"""Longest time that the processes wait for the first one, which alone scores, verifies, measures and tests."""


_ALONE: ContextVar[bool] = ContextVar("alone", default=False)
"""True while this process runs `once`, for which the others wait."""


@final
@dataclass(frozen=True)
class Machines:
    """Numbers of devices and machines that train together, with one process a device.

    Under torchrun and Slurm the processes exist already, and the numbers must match theirs; otherwise the first process
    of a machine starts the others.

    >>> Machines().several, Machines(devices=2).several
    (False, True)
    """

    devices: int = 1
    num_nodes: int = 1
    strategy: Strategy = "auto"

    def __post_init__(self) -> None:
        """Refuse numbers out of range, and strategies that cannot be used."""
        for flag, value, most in (
            ("--devices", self.devices, max(64, 4 * (os.cpu_count() or 1))),
            ("--num-nodes", self.num_nodes, MOST_NODES),
        ):
            if not 1 <= value <= most:
                raise InputError(f"{flag} {value} is out of range; give a whole number from 1 to {most}")
        if self.strategy in ("fsdp", "deepspeed"):
            raise InputError(
                f"--strategy {self.strategy} shards parameters, and a shard cannot lose channels. Prune before "
                f"wrapping: take --strategy ddp, or prune with --epochs 0, read the small network with secateurs.load, "
                f"and wrap that in {self.strategy} for fine-tuning"
            )

    @property
    def count(self) -> int:
        """Number of processes that train together."""
        return self.devices * self.num_nodes

    @property
    def several(self) -> bool:
        """True if more than one process trains."""
        return self.count > 1 or self.strategy == "ddp"

    def share(self, batch_size: int) -> int:
        """Return a batch's images per device; InputError if they cannot be divided evenly."""
        if batch_size % self.count:
            raise InputError(
                f"a batch of {batch_size} images cannot be shared out among {self.count} devices evenly; take a "
                f"multiple of {self.count}, for example --batch-size {-(-batch_size // self.count) * self.count}"
            )
        return batch_size // self.count

    def launch(self, accelerator: str) -> None:
        """Start the other processes if necessary, and join the process group; nothing for one device."""
        if self.several and not dist.is_initialized():
            self._check_address()
            wrapping = FabricStrategy(timeout=PATIENCE)
            Fabric(accelerator=accelerator, devices=self.devices, num_nodes=self.num_nodes, strategy=wrapping).launch()

    def _check_address(self) -> None:
        """Refuse several machines of which none is named: the process would wait for the others for days."""
        if self.num_nodes > 1 and "MASTER_ADDR" not in os.environ and not SLURMEnvironment.detect():
            raise InputError(
                f"--num-nodes {self.num_nodes} trains on several machines, and this process knows of no other; "
                "start it under torchrun or Slurm, or set MASTER_ADDR, MASTER_PORT and NODE_RANK on each machine"
            )

    def trainer(self) -> dict[str, Any]:
        """The arguments of Lightning's Trainer."""
        if not self.several:
            return {"devices": 1}
        shared = {"devices": self.devices, "num_nodes": self.num_nodes, "use_distributed_sampler": False}
        return {**shared, "strategy": DDPStrategy(timeout=PATIENCE)}


def rank() -> int:
    """The number of this process among those that train together.

    >>> rank()
    0
    """
    return dist.get_rank() if Ranks().size > 1 else 0


def early_rank() -> int:
    """The rank before the process group exists, from the launcher's environment; 0 if it is not set.

    >>> early_rank()
    0
    """
    # The first process of every machine has local rank 0: Lightning's launcher distinguishes machines by NODE_RANK.
    return int(getattr(rank_zero_only, "rank", 0)) or int(os.environ.get("NODE_RANK", "0"))


def once(make: Callable[[], T]) -> T:
    """Run a function in the first process and return its result in all; an error of the library is raised in all.

    >>> once(lambda: 3)
    3
    """
    if Ranks().size == 1 or _ALONE.get():
        return make()

    def tried() -> tuple[T | None, SecateursError | None]:
        alone = _ALONE.set(True)
        try:
            return make(), None
        except SecateursError as error:
            return None, error
        finally:
            _ALONE.reset(alone)

    made, error = Ranks().first(tried)
    if error is not None:
        raise error
    return made  # pyright: ignore[reportReturnType] (None only where make returned it)
