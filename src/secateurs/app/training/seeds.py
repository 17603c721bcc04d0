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
    """Return a distinct seed for each epoch of each run, within NumPy's 32 bits.

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
class Share(Sampler[int]):
    """The images of one process: its part of every batch of `batch_size`, in order; an incomplete batch is dropped.

    >>> whole = Shuffled(7, seed=0)
    >>> parts = [list(Share(whole, batch_size=4, rank=rank, ranks=2)) for rank in (0, 1)]
    >>> (
    ...     parts[0] + parts[1] == list(whole)[:4],
    ...     [list(Share(whole, 8, rank, 2)) for rank in (0, 1)]
    ...     == [
    ...         list(whole)[:3],
    ...         list(whole)[3:6],
    ...     ],
    ... )
    (True, True)
    """

    whole: Shuffled
    batch_size: int
    rank: int
    ranks: int

    def __len__(self) -> int:
        """Number of images in this process's share."""
        batches, share = self._sizes()
        return batches * share

    def __iter__(self) -> Iterator[int]:
        """Yield this process's part of every batch."""
        (batches, share), order = self._sizes(), list(self.whole)
        for batch in range(batches):
            start = batch * share * self.ranks + self.rank * share
            yield from order[start : start + share]

    def _sizes(self) -> tuple[int, int]:
        """Batches, and images of each for one process; fewer images than a batch are one batch."""
        batches = len(self.whole) // self.batch_size
        return (batches, self.batch_size // self.ranks) if batches else (1, len(self.whole) // self.ranks)


@final
@dataclass(frozen=True)
class SeedWorker:
    """Seed a data-loading process; each has its own random numbers."""

    seed: int

    def __call__(self, worker: int) -> None:
        """Seed the worker with this number; called in the worker."""
        seed_everything((self.seed + 1_000_003 * (worker + 1)) % 2**32, verbose=False)


@final
class SeedEachEpoch(Callback):
    """Seed Python, NumPy and torch when an epoch begins, for augmentation in this process and for dropout."""

    def __init__(self, seed: int, rank: int = 0) -> None:
        super().__init__()
        self.seed = seed
        self.rank = rank

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        apart = 1_000_000_007 * self.rank  # processes augment their images differently
        seed_everything((epoch_seed(self.seed, trainer.current_epoch) + apart) % 2**32, verbose=False)
