"""The part of a recipe that does not change the experiment: devices, loggers, tags."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from secateurs.app.choices import Logger, Precision, Strategy
from secateurs.app.cli.flags import about as _about

if TYPE_CHECKING:
    from secateurs.app.training.machines import Machines


@dataclass(frozen=True)
class Where:
    """Seed, devices and machines of a run."""

    label: str = field(
        default="", metadata=_about("machine", "what the leaderboard files the run under, say a paper's row", "NAME")
    )
    seed: int = field(
        default=0, metadata=_about("machine", "of initialisation, shuffling and whatever the method draws", "N")
    )
    device: Literal["auto", "cpu", "cuda"] = field(default="auto", metadata=_about("machine", "where to train", ""))
    precision: Precision = field(
        default="32-true", metadata=_about("machine", "of training: float32, or mixed with bfloat16 or float16", "")
    )
    channels_last: bool = field(
        default=False, metadata=_about("machine", "train with the channels of images last in memory", "")
    )
    devices: int = field(default=1, metadata=_about("machine", "devices of each machine that train together", "N"))
    num_nodes: int = field(default=1, metadata=_about("machine", "machines that train together", "N"))
    strategy: Strategy = field(
        default="auto", metadata=_about("machine", "how several devices train together; auto: ddp where they do", "")
    )
    threads: int = field(default=0, metadata=_about("machine", "CPU threads; 0 takes torch's default", "N"))
    logger: Logger = field(
        default="csv",
        metadata=_about("machine", "where each epoch's figures go, beside the run's own records", ""),
    )

    def machines(self) -> "Machines":
        """The devices that train; `Machines` checks them."""
        from secateurs.app.training.machines import Machines  # seconds of imports, of which the flags need nothing

        return Machines(self.devices, self.num_nodes, self.strategy)


GROUPS = {
    "network": "network",
    "data": "data",
    "method": "method",
    "budget": "budget (what remains: a share such as 0.5 or 50%, or a number such as 20M or 1e6; give at least one)",
    "training": "training and recovery",
    "augmentation": "augmentation of training images",
    "machine": "machine",
}
"""Headings of the help, in order."""
