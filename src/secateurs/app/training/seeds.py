"""Seed training from the seed of the run and the number of the epoch alone.

A run that was killed and resumed then takes exactly the steps of one that was not. Lightning makes a loader's iterator
at another moment after a resume than without, so that nothing may depend on when the iterator was made either.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch.utils.data import Sampler
from typing_extensions import override


def epoch_seed(seed: int, epoch: int) -> int:
    """A seed of its own for each epoch of each run, within the 32 bits that NumPy takes.

    >>> epoch_seed(0, 3), epoch_seed(1, 0)
    (3, 100003)
    """
    return (seed * 100_003 + epoch) % 2**32


@final
@dataclass(frozen=True)
class Shuffled(Sampler[int]):
    """The same order every time: a permutation drawn from the seed.

    >>> list(Shuffled(5, seed=0)) == list(Shuffled(5, seed=0)), sorted(Shuffled(5, seed=1))
    (True, [0, 1, 2, 3, 4])
    """

    count: int
    seed: int

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed)
        return iter(torch.randperm(self.count, generator=generator).tolist())


@final
@dataclass(frozen=True)
class SeedWorker:
    """Seed a process that reads images; each has random numbers of its own."""

    seed: int

    def __call__(self, worker: int) -> None:
        """Called in the process itself, with its number."""
        seed_everything((self.seed + 1_000_003 * (worker + 1)) % 2**32, verbose=False)


@final
class SeedEachEpoch(Callback):
    """Seed Python, NumPy and torch when an epoch begins, for augmentation in this process and for dropout."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        seed_everything(epoch_seed(self.seed, trainer.current_epoch), verbose=False)
