"""`secateurs demo` and its recipe: a ResNet-20 on bundled digits, pruned to half of its multiply-accumulates."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, final

from secateurs.app.cli.arguments import Invocation
from secateurs.app.cli.recipe import Recipe

if TYPE_CHECKING:
    from rich.console import Console

OUT = Path("runs", "demo")

RECIPE = Recipe(
    model="resnet20",
    data="digits",
    method="magnitude",
    macs=0.5,
    multiple_of=1,
    train_epochs=20,
    train_lr=0.1,
    epochs=16,
    lr=0.05,
    batch_size=32,
    device="cpu",
    threads=1,
)

FLAGS = ("method", "macs", "params", "memory", "peak_memory", "train_epochs", "epochs", "seed")
"""Settings that can be changed from the command line."""


@final
@dataclass(frozen=True)
class Demonstration(Invocation):
    """Train a ResNet-20 on handwritten digits, prune it to half of its multiply-accumulates, recover and measure it.

    The digits are bundled with scikit-learn: no network is needed. It takes about two minutes on two cores.
    FOLDER is runs/demo where none is given.
    """

    BASE: ClassVar[Recipe] = RECIPE
    FOLDER: ClassVar[Path | None] = OUT
    ONLY: ClassVar[tuple[str, ...]] = FLAGS


def demo(invocation: Demonstration, console: "Console") -> None:
    """Run the demo's recipe."""
    from secateurs.app.cli.pruning import prune  # seconds of imports, of which the help needs nothing

    prune(invocation, console)
