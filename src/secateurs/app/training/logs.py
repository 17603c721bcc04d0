"""Loggers of each epoch's figures, from Lightning."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateurs.errors import InputError

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger as LightningLogger

PACKAGES = {
    "tensorboard": (("tensorboard", "tensorboardX"),),
    "mlflow": (("mlflow",), ("sqlalchemy",)),  # mlflow-skinny lacks the second, which writes its database
    "wandb": (("wandb",),),
}
"""Modules that each logger needs: one of each tuple, whose first entry is the name of the package."""

PROJECT = "secateurs"
"""Name of the experiment (MLflow) and of the project (W&B)."""


def check_logger(name: str) -> None:
    """Refuse a logger whose package is not installed, by name."""
    for wanted in PACKAGES.get(name, ()):
        if not any(importlib.util.find_spec(module) for module in wanted):
            raise InputError(
                f"--logger {name} needs the package {name}, of which {wanted[0]} is missing; "
                f"python -m pip install {name}, or leave --logger out"
            )


def make_logger(name: str, folder: Path, stage: str) -> LightningLogger:
    """The logger of one stage of a run.

    csv and tensorboard write into `folder`/log. mlflow writes where MLFLOW_TRACKING_URI says, or into a database there;
    wandb as its own environment variables say (WANDB_MODE=offline keeps it on this machine).
    """
    from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger

    run = f"{folder.parent.parent.name}-{stage}"
    if name == "tensorboard":
        return TensorBoardLogger(folder, name="log")
    if name == "mlflow":
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(folder / 'log' / 'mlflow.db').absolute()}"
        (folder / "log").mkdir(parents=True, exist_ok=True)
        return MLFlowLogger(PROJECT, run_name=run, tracking_uri=uri)
    if name == "wandb":
        (folder / "log").mkdir(parents=True, exist_ok=True)
        more: dict[str, Any] = {"settings": {"silent": True}}
        return WandbLogger(run, save_dir=folder / "log", project=PROJECT, **more)
    return CSVLogger(folder, name="log")
