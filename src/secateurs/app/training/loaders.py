"""Lightning data module over the three splits of a data set."""

from __future__ import annotations

from typing import Any, final

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset
from typing_extensions import override

from secateurs.app.data.coco import together
from secateurs.app.data.images import Images, as_batch
from secateurs.app.data.splits import Splits
from secateurs.app.training.machines import Machines, rank
from secateurs.app.training.seeds import SeedWorker, Share, Shuffled, epoch_seed


@final
class Loaders(LightningDataModule):
    """Loaders over the three splits: shuffled for training, in fixed order for everything else.

    The shuffling, and the augmentation in worker processes, follow from `seed` and the number of the epoch alone.
    """

    def __init__(
        self, splits: Splits, *, batch_size: int, workers: int = 0, seed: int = 0, machines: Machines | None = None
    ) -> None:
        super().__init__()
        self.splits = splits
        self.batch_size = batch_size
        self.workers = workers
        self.seed = seed
        self.machines = machines or Machines()
        self.machines.share(batch_size)

    def of(self, batch_size: int) -> Loaders:
        """The same images in batches of another size."""
        return Loaders(self.splits, batch_size=batch_size, workers=self.workers, seed=self.seed, machines=self.machines)

    @override
    def train_dataloader(self) -> DataLoader[Any]:
        """Training images, augmented and shuffled for the trainer's current epoch; of several devices, this one's."""
        epoch = self.trainer.current_epoch if self.trainer else 0
        if self.machines.count == 1:
            return self.shuffled(epoch)
        whole = Shuffled(_count(self.splits.train), epoch_seed(self.seed, epoch))
        share = Share(whole, self.batch_size, rank(), self.machines.count)
        return self._training(share, self.machines.share(self.batch_size), whole.seed + 7919 * rank())

    @override
    def val_dataloader(self) -> DataLoader[Any]:
        """The validation images."""
        return self._loader(self.splits.validation)

    @override
    def test_dataloader(self) -> DataLoader[Any]:
        """The test images, used once at the end."""
        return self._loader(self.splits.test)

    def calibration(self, batches: int) -> DataLoader[Any]:
        """The first batches of training images without augmentation, in a fixed shuffled order."""
        images = self.splits.calibration
        return self._loader(Subset(images, range(min(_count(images), batches * self.batch_size))))

    def example(self) -> Tensor:
        """One training image without augmentation, [1, channels, height, width]."""
        return _image(self.splits.calibration[0])[None]

    def pictures(self, count: int) -> Tensor:
        """The first training images without augmentation, [count, channels, height, width]."""
        images = self.splits.calibration
        return torch.stack([_image(images[index]) for index in range(min(count, _count(images)))])

    def shuffled(self, epoch: int) -> DataLoader[Any]:
        """Number of training images in an epoch, over all devices."""
        seed = epoch_seed(self.seed, epoch)
        return self._training(Shuffled(_count(self.splits.train), seed), self.batch_size, seed)

    def _training(self, order: Shuffled | Share, batch_size: int, seed: int) -> DataLoader[Any]:
        images = self.splits.train
        return DataLoader(
            images,
            batch_size=batch_size,
            sampler=order,
            num_workers=self.workers,
            collate_fn=together if self.splits.task == "detection" else _collated(images),
            worker_init_fn=SeedWorker(seed),
            generator=torch.Generator(),  # otherwise, creating an iterator would draw from the global one
            # On a 1x1 map, BatchNorm cannot average over a last batch of one image.
            drop_last=len(order) > batch_size,
            pin_memory=torch.cuda.is_available(),
        )

    def _loader(self, images: Dataset[Any]) -> DataLoader[Any]:
        return DataLoader(
            images,
            batch_size=self.batch_size,
            num_workers=self.workers,
            collate_fn=together if self.splits.task == "detection" else _collated(images),
            pin_memory=torch.cuda.is_available(),
        )


def _image(sample: Any) -> Tensor:
    """The image of a sample, with or without a label."""
    return sample if isinstance(sample, Tensor) else sample[0]


def _count(images: Dataset[Any]) -> int:
    return len(images)  # pyright: ignore[reportArgumentType] (torch leaves __len__ to subclasses)


def _collated(images: Dataset[Any]) -> Any:
    """Return the collate function: images in memory are fetched as batches, others are collated by torch."""
    while isinstance(images, Subset):
        images = images.dataset
    return as_batch if isinstance(images, Images) else None
