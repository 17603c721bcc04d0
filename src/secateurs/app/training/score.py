"""How good a classifier is on the images of a loader."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
from lightning.pytorch import Trainer
from torch import nn
from torch.utils.data import DataLoader

from secateurs.app.training.module import Classifier
from secateurs.app.training.optimisation import Optimisation
from secateurs.app.training.quiet import quietly


@final
@dataclass(frozen=True)
class Score:
    """Shares of images: those named rightly at first, and those whose name is among the first five."""

    accuracy: float
    top5: float


def score(model: nn.Module, loader: DataLoader[Any], *, device: str = "auto") -> Score:
    """Measure a model on a loader's images; it is left in eval mode."""
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
        figures = trainer.test(Classifier(model, Optimisation(1, 1.0)), loader, verbose=False)
    model.eval()
    return Score(float(figures[0]["test/accuracy"]), float(figures[0]["test/top5"]))


def evaluate(model: nn.Module, loader: DataLoader[Any], *, device: str = "auto") -> float:
    """The share of a loader's images that the model names rightly; the model is left in eval mode."""
    return score(model, loader, device=device).accuracy


def accelerator(device: str) -> str:
    """Lightning's name of a device of ours."""
    if device == "auto":
        return "gpu" if torch.cuda.is_available() else "cpu"
    return "gpu" if device == "cuda" else "cpu"


def deterministic(device: str) -> Any:
    """Whether Lightning refuses kernels that are not deterministic there."""
    # Some CUDA kernels (adaptive pooling, backward) have no deterministic form; elsewhere all have.
    return True if accelerator(device) == "cpu" else "warn"
