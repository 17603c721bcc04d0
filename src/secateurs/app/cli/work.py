"""State that the stages of a run share: the recipe, the method, the data and the run's folder."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from lightning.pytorch import seed_everything
from rich.console import Console
from torch import nn

import secateurs as sct
from secateurs.app.cli.pretrained import classes_of
from secateurs.app.cli.recipe import Recipe
from secateurs.app.cli.run_folder import RunFolder
from secateurs.app.models import build
from secateurs.app.training import Loaders, Place, evaluate
from secateurs.app.training.logs import check_logger
from secateurs.app.training.machines import once, rank
from secateurs.errors import DamageError, StoreError

Cut = tuple[nn.Module, sct.Plan, dict[str, Any]]
"""(pruned network, plan, further values to record)."""

TRAINED, PRUNED, LAST = (Path("checkpoints", name) for name in ("trained", "pruned", "last"))
"""Networks that a run saves besides the result: the dense one, the one before recovery, and the last epoch's."""


@final
@dataclass(frozen=True, eq=False)
class Work:
    """State of a run that is fixed before its stages start.

    replaced: the method that a control is compared with; `method` itself in any other run. With several processes, all
    run every stage, and only the first writes to the folder.
    """

    recipe: Recipe
    method: Any
    replaced: Any
    budget: sct.Budget | None
    loaders: Loaders
    folder: RunFolder
    console: Console

    def __post_init__(self) -> None:
        """Refuse a logger that is not installed."""
        check_logger(self.recipe.logger)

    def fresh(self) -> nn.Module:
        """The dense network, initialised from the seed."""
        seed_everything(self.recipe.seed, verbose=False)
        splits = self.loaders.splits
        return build(self.recipe.model, in_channels=splits.shape[0], num_classes=classes_of(self.recipe, splits)).eval()

    @property
    def pruning_loaders(self) -> Loaders:
        """The loaders of the pruning stage, whose batch size may differ."""
        return self.loaders.of(self.recipe.prune_batch_size or self.recipe.batch_size)

    @property
    def like(self) -> Path:
        """The run whose size a control has; `check_control` has checked that it exists."""
        return self.recipe.like or self.folder.path

    def place(self, name: str) -> Place:
        """Checkpoint folder and progress output of the training of this name."""
        bar, first = self.console.is_terminal, rank() == 0
        folder = self.folder.path / "checkpoints" / name
        return Place(
            folder,
            self.recipe.seed,
            self.recipe.device,
            bar=bar and first,
            say=self.tell if first and not bar else None,
            logger=self.recipe.logger,
            machines=self.recipe.machines(),
        )

    def device(self) -> torch.device:
        """Device on which evidence is gathered and latency is measured."""
        cuda = self.recipe.device == "cuda" or (self.recipe.device == "auto" and torch.cuda.is_available())
        return torch.device("cuda" if cuda else "cpu")

    def validate(self, model: nn.Module) -> float | None:
        """Function that scores a network on the validation split (accuracy or mIoU); None without labels."""
        loader, splits = self.loaders.val_dataloader(), self.loaders.splits
        return once(lambda: evaluate(model, loader, device=self.recipe.device, splits=splits))

    def done(self, name: str, *keys: str) -> dict[str, Any] | None:
        """The record of a finished stage; None if it is not finished."""
        return once(lambda: self.folder.done(name, *keys))

    def again(self, path: Path) -> tuple[nn.Module, sct.Plan]:
        """Return a network saved in a folder of a run, and its plan."""

        def read() -> tuple[nn.Module, sct.Plan]:
            try:
                return sct.load(self.fresh(), path), sct.load_plan(path)
            except StoreError as cause:
                raise DamageError(f"{path}: {cause}") from cause

        return self.shared(read)

    def shared(self, make: Callable[[], tuple[nn.Module, sct.Plan]]) -> tuple[nn.Module, sct.Plan]:
        """Make a network and a plan in the first process, and send them to all others."""
        made: list[tuple[nn.Module, sct.Plan]] = []

        def parcel() -> tuple[str, dict[str, torch.Tensor]]:
            made.append(make())
            model, plan = made[0]
            return plan.to_json(), {name: tensor.cpu() for name, tensor in model.state_dict().items()}

        if not self.recipe.machines().several:
            return make()
        text, weights = once(parcel)
        if made:
            return made[0]
        plan = sct.Plan.from_json(text)
        model = sct.apply(plan, self.fresh())
        model.load_state_dict(weights)
        return model.eval(), plan

    def save(self, model: nn.Module, plan: sct.Plan, name: Path) -> None:
        """Save a network in the run's folder."""
        once(lambda: sct.save(model, plan, self.folder.path / name, overwrite=True))

    def close(self, name: str, record: dict[str, Any], since: float) -> dict[str, Any]:
        """Record and print that a stage is finished; its files are written before."""
        record |= {"seconds": time.monotonic() - since}
        once(lambda: self.folder.finish(name, record))
        self.say(name, record)
        return record

    def tell(self, text: str) -> None:
        """Print one line without interpreting brackets and colons as markup."""
        self.console.print(text, markup=False, emoji=False)

    def say(self, name: str, record: dict[str, Any], note: str = "") -> None:
        """Print one line: the finished stage, the validation score, and the time."""
        took = note or f"{record['seconds']:.0f} s"
        mark = "✓" if "utf" in self.console.encoding else "ok"
        found = record["accuracy"]
        measured = "" if found is None else f"validation {100 * found:6.2f} %   "
        self.console.print(f"[green]{mark}[/] {name:<13} {measured}[dim]{took}[/]")
