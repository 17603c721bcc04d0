"""The recipe of `secateurs demo`: a ResNet-20 on bundled digits, pruned to half of its multiply-accumulates."""

from pathlib import Path

from secateurs.app.cli.recipe import Recipe

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

FLAGS = ("method", "macs", "params", "memory", "train_epochs", "epochs", "seed")
"""What may be changed about it."""
