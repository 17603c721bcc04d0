"""Accuracy of a classifier on the images of a loader."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
from lightning.pytorch import Trainer
from torch import nn
from torch.utils.data import DataLoader

from secateurs.app.data.splits import Splits
from secateurs.app.training.optimisation import Optimisation
from secateurs.app.training.quiet import quietly
from secateurs.app.training.tasks import module_of


@final
@dataclass(frozen=True)
class Score:
    """Top-1 and top-5 accuracy; for segmentation, mIoU and None."""

    accuracy: float
    top5: float | None


def score(
    model: nn.Module, loader: DataLoader[Any], *, device: str = "auto", splits: Splits | None = None
) -> Score | None:
    """Measure a model on a loader's images by the metric of their data set; it is in eval mode afterwards.

    None without labels.
    """
    if splits is not None and splits.task == "none":
        return None
    with quietly():
        trainer = Trainer(
            accelerator=accelerator(device),
            devices=1,
            deterministic=deterministic(device),
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
        )
        figures = trainer.test(module_of(model, Optimisation(1, 1.0), splits), loader, verbose=False)
    model.eval()
    top5 = figures[0].get("test/top5")
    return Score(float(figures[0]["test/accuracy"]), None if top5 is None else float(top5))


def evaluate(
    model: nn.Module, loader: DataLoader[Any], *, device: str = "auto", splits: Splits | None = None
) -> float | None:
    """Return the accuracy on a loader's images, or the metric of their data set; None without labels.

    The model is in eval mode afterwards.
    """
    found = score(model, loader, device=device, splits=splits)
    return None if found is None else found.accuracy


def accelerator(device: str) -> str:
    """Lightning's name of a device of ours."""
    if device == "auto":
        return "gpu" if torch.cuda.is_available() else "cpu"
    return "gpu" if device == "cuda" else "cpu"


def deterministic(device: str) -> Any:
    """True if Lightning enforces deterministic kernels on this device."""
    # Some CUDA kernels (adaptive pooling, backward) have no deterministic form; elsewhere all have.
    return True if accelerator(device) == "cpu" else "warn"
