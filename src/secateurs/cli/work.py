"""The work of a run, stage by stage: train, prune, recalibrate, fine-tune, measure. Each is done once and recorded."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import torch
from lightning.pytorch import seed_everything
from rich.console import Console
from torch import nn

import secateurs as sct
from secateurs.cli.folder import RunFolder
from secateurs.cli.recipe import Recipe
from secateurs.cli.weights import load_weights
from secateurs.models import build
from secateurs.report import Stage
from secateurs.training import Loaders, Optimisation, Place, evaluate, fit

TRAINED, PRUNED = Path("checkpoints", "trained"), Path("checkpoints", "pruned")


@final
@dataclass(frozen=True, eq=False)
class Work:
    """Everything that is settled before the work begins."""

    recipe: Recipe
    method: Any
    budget: sct.Budget
    loaders: Loaders
    folder: RunFolder
    console: Console

    def fresh(self) -> nn.Module:
        """The dense network, initialised from the seed."""
        seed_everything(self.recipe.seed, verbose=False)
        splits = self.loaders.splits
        return build(self.recipe.model, in_channels=splits.shape[0], num_classes=len(splits.classes)).eval()

    def place(self, name: str) -> Place:
        """Where a training of this name keeps its checkpoint, and how it shows its progress."""
        bar = self.console.is_terminal
        folder = self.folder.path / "checkpoints" / name
        return Place(folder, self.recipe.seed, self.recipe.device, bar, None if bar else self.console.print)

    def device(self) -> torch.device:
        """Where evidence is gathered and latency is measured."""
        cuda = self.recipe.device == "cuda" or (self.recipe.device == "auto" and torch.cuda.is_available())
        return torch.device("cuda" if cuda else "cpu")

    def validate(self, model: nn.Module) -> float:
        """The accuracy that decisions are made by."""
        return evaluate(model, self.loaders.val_dataloader(), device=self.recipe.device)

    def close(self, name: str, record: dict[str, Any], since: float) -> dict[str, Any]:
        """Record that a stage is done, and say so; its files are written by now."""
        record |= {"seconds": time.monotonic() - since}
        self.folder.finish(name, record)
        self.say(name, record)
        return record

    def say(self, name: str, record: dict[str, Any], note: str = "") -> None:
        """One line: what is done, how good the network is now, and how long it took."""
        took = note or f"{record['seconds']:.0f} s"
        self.console.print(f"[green]✓[/] {name:<13} validation {100 * record['accuracy']:6.2f} %   [dim]{took}[/]")


def train(work: Work) -> nn.Module:
    """Give the dense network, trained: in an earlier start of this run, elsewhere (the weights file), or here."""
    model, recipe = work.fresh(), work.recipe
    if record := work.folder.done("trained"):
        work.say("trained", record, "done before")
        return sct.load(model, work.folder.path / TRAINED)
    start, record = time.monotonic(), {}
    if recipe.weights:
        load_weights(model, recipe.weights)
    else:
        work.console.print(f"Training {recipe.model} on {work.loaders.splits.name}: {recipe.train_epochs} epochs")
        settings = Optimisation(recipe.train_epochs, recipe.train_lr, weight_decay=recipe.weight_decay)
        fitted = fit(model, work.loaders, settings, place=work.place("training"), resume=True)
        record = {"epoch": fitted.best.epoch, "history": [asdict(epoch) for epoch in fitted.history]}
    graph = sct.trace(model, work.loaders.example())
    sct.save(model, sct.Plan.identity(graph), work.folder.path / TRAINED, overwrite=True)
    work.close("trained", {"accuracy": work.validate(model), **record}, start)
    return model


def cut(work: Work, dense: nn.Module) -> nn.Module:
    """Give the pruned network: choose, prove, remove, and verify that removal was silence."""
    if record := work.folder.done("pruned"):
        work.say("pruned", record, "done before")
        return sct.load(work.fresh(), work.folder.path / PRUNED)
    start, recipe, device = time.monotonic(), work.recipe, work.device()
    seed_everything(recipe.seed, verbose=False)
    result = sct.prune(
        dense.to(device),
        work.loaders.example().to(device),
        method=work.method,
        budget=work.budget,
        data=work.loaders.calibration(recipe.calibration_batches),
        protect=recipe.protect,
        seed=recipe.seed,
    )
    pruned = result.model.cpu()
    images, _ = next(iter(work.loaders.calibration(1)))
    verified = sct.verify(result.plan, dense.cpu(), images[:4], per_group=False)
    verified.raise_if_failed()
    sct.save(pruned, result.plan, work.folder.path / PRUNED, overwrite=True)
    record = {
        "accuracy": work.validate(pruned),
        "before": asdict(result.cost_before),
        "after": asdict(result.cost_after),
        "groups": {g.name: [g.units, len(result.plan.keep[g.name])] for g in result.graph.groups},
        "error": verified.error,
        "tolerance": verified.tolerance,
        "deviation": verified.deviation,
    }
    work.close("pruned", record, start)
    return pruned


def recover(work: Work, pruned: nn.Module) -> nn.Module:
    """Give the network back its accuracy: first BatchNorm's statistics, then fine-tuning; save what comes out."""
    recipe = work.recipe
    if record := work.folder.done("recovered"):
        work.say("recovered", record, "done before")
        return sct.load(work.fresh(), work.folder.path)
    start = time.monotonic()
    seed_everything(recipe.seed, verbose=False)
    model = sct.recalibrate(pruned.to(work.device()), work.loaders.shuffled(0), recipe.calibration_batches).cpu()
    work.close("recalibrated", {"accuracy": work.validate(model)}, start)
    start, history = time.monotonic(), []
    if recipe.epochs:
        work.console.print(f"Fine-tuning the pruned network: {recipe.epochs} epochs")
        settings = Optimisation(recipe.epochs, recipe.lr, weight_decay=recipe.weight_decay)
        fitted = fit(model, work.loaders, settings, place=work.place("recovery"), resume=True)
        history = [asdict(epoch) for epoch in fitted.history]
    sct.save(model, sct.load_plan(work.folder.path / PRUNED), work.folder.path, overwrite=True)
    work.close("recovered", {"accuracy": work.validate(model), "history": history}, start)
    return model


def stages(work: Work) -> tuple[Stage, ...]:
    """Where the run stood after each stage that is done."""
    records = {name: work.folder.done(name) for name in ("trained", "pruned", "recalibrated", "recovered")}
    return tuple(Stage(name, r["accuracy"], r["seconds"]) for name, r in records.items() if r)
