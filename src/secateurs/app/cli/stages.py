"""The work of a run, stage by stage: train, prune, recover, fine-tune, measure. Each is done once and recorded."""

import copy
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import torch
from lightning.pytorch import seed_everything
from rich.console import Console
from torch import nn

import secateurs as sct
from secateurs.app.cli.from_recipe import ALLOCATORS, optimisation, stepping
from secateurs.app.cli.pretrained import classes_of, initialise
from secateurs.app.cli.recipe import Recipe
from secateurs.app.cli.run_folder import RunFolder
from secateurs.app.models import build
from secateurs.app.report import Stage
from secateurs.app.training import Loaders, Place, evaluate, fit, fit_session
from secateurs.app.training.logs import check_logger
from secateurs.errors import BudgetError, DamageError, RecipeError, ScheduleError, StoreError
from secateurs.session import TrainingMethod

Cut = tuple[nn.Module, sct.Plan, dict[str, Any]]
"""The pruned network, the plan that leads to it, and what else to record."""

TRAINED, PRUNED = Path("checkpoints", "trained"), Path("checkpoints", "pruned")


@final
@dataclass(frozen=True, eq=False)
class Work:
    """Everything that is settled before the work begins."""

    recipe: Recipe
    method: Any
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

    def place(self, name: str) -> Place:
        """Where a training of this name keeps its checkpoint, and how it shows its progress."""
        bar = self.console.is_terminal
        folder = self.folder.path / "checkpoints" / name
        return Place(folder, self.recipe.seed, self.recipe.device, bar, None if bar else self.tell, self.recipe.logger)

    def device(self) -> torch.device:
        """Where evidence is gathered and latency is measured."""
        cuda = self.recipe.device == "cuda" or (self.recipe.device == "auto" and torch.cuda.is_available())
        return torch.device("cuda" if cuda else "cpu")

    def validate(self, model: nn.Module) -> float:
        """The accuracy that decisions are made by."""
        return evaluate(model, self.loaders.val_dataloader(), device=self.recipe.device)

    def again(self, model: nn.Module, name: Path) -> nn.Module:
        """A network that an earlier start of this run saved."""
        try:
            return sct.load(model, self.folder.path / name)
        except StoreError as cause:
            raise DamageError(f"{self.folder.path / name}: {cause}") from cause

    def close(self, name: str, record: dict[str, Any], since: float) -> dict[str, Any]:
        """Record that a stage is done, and say so; its files are written by now."""
        record |= {"seconds": time.monotonic() - since}
        self.folder.finish(name, record)
        self.say(name, record)
        return record

    def tell(self, text: str) -> None:
        """One line as it is: brackets and colons in the names of files are no markup."""
        self.console.print(text, markup=False, emoji=False)

    def say(self, name: str, record: dict[str, Any], note: str = "") -> None:
        """One line: what is done, how good the network is now, and how long it took."""
        took = note or f"{record['seconds']:.0f} s"
        mark = "✓" if "utf" in self.console.encoding else "ok"
        self.console.print(f"[green]{mark}[/] {name:<13} validation {100 * record['accuracy']:6.2f} %   [dim]{took}[/]")


def train(work: Work) -> nn.Module:
    """Give the dense network, trained: in an earlier start of this run, elsewhere (the weights file), or here."""
    model, recipe = work.fresh(), work.recipe
    if record := work.folder.done("trained", "accuracy", "seconds"):
        work.say("trained", record, "done before")
        return work.again(model, TRAINED)
    start, record = time.monotonic(), {}
    if initialise(model, recipe, work.loaders.splits):
        work.tell(f"Training {recipe.model} on {work.loaders.splits.name}: {recipe.train_epochs} epochs")
        settings = optimisation(recipe, "train")
        fitted = fit(model, work.loaders, settings, place=work.place("training"), resume=True)
        record = {"epoch": fitted.best.epoch, "history": [asdict(epoch) for epoch in fitted.history]}
    graph = sct.trace(model, work.loaders.example())
    sct.save(model, sct.Plan.identity(graph), work.folder.path / TRAINED, overwrite=True)
    work.close("trained", {"accuracy": work.validate(model), **record}, start)
    return model


def cut(work: Work, dense: nn.Module) -> nn.Module:
    """Give the pruned network: choose, prove, remove, and verify that removal was silence."""
    if record := work.folder.done("pruned", "accuracy", "seconds"):
        work.say("pruned", record, "done before")
        return work.again(work.fresh(), PRUNED)
    start = time.monotonic()
    seed_everything(work.recipe.seed, verbose=False)
    trains = isinstance(work.method, TrainingMethod)
    pruned, plan, more = (cut_while_training if trains else cut_at_once)(work, dense)
    images, _ = next(iter(work.loaders.calibration(1)))
    verified = sct.verify(plan, dense.cpu(), images[:4], per_group=False)
    verified.raise_if_failed()
    sct.save(pruned, plan, work.folder.path / PRUNED, overwrite=True)
    graph = sct.trace(dense, work.loaders.example(), protect=work.recipe.protect)
    record = {
        "accuracy": work.validate(pruned),
        "before": asdict(graph.cost()),
        "after": asdict(graph.cost(plan)),
        "groups": {g.name: [g.units, len(plan.keep[g.name])] for g in graph.groups},
        "error": verified.error,
        "tolerance": verified.tolerance,
        "deviation": verified.deviation,
        **more,
    }
    work.close("pruned", record, start)
    return pruned


def cut_at_once(work: Work, dense: nn.Module) -> Cut:
    """Prune in one shot."""
    recipe, device = work.recipe, work.device()
    result = sct.prune(
        dense.to(device),
        work.loaders.example().to(device),
        method=work.method,
        budget=work.budget,
        data=work.loaders.calibration(recipe.calibration_batches),
        protect=recipe.protect,
        seed=recipe.seed,
        allocator=None if recipe.ranking == "mean" else ALLOCATORS[recipe.ranking],
    )
    return result.model.cpu(), result.plan, {}


def session_of(work: Work, model: nn.Module) -> sct.Session:
    """Begin a session on a model; it fits a schedule that is longer than the epochs it has."""
    recipe, epochs = work.recipe, work.recipe.prune_epochs
    if getattr(work.method, "unit", "filter") != "filter" and recipe.epochs:
        raise RecipeError(
            f"--method.unit {work.method.unit} leaves zeros inside dense tensors, and fine-tuning would fill them. "
            "Give --epochs 0."
        )
    steps = stepping(recipe).steps(len(work.loaders.shuffled(0)))
    wanted = int(getattr(work.method, "samples", 0))  # a method that says how many images it measures on gets them
    try:
        return sct.Session(
            model,
            work.loaders.example(),
            method=work.method,
            budget=work.budget,
            steps_per_epoch=steps,
            epochs=epochs,
            data=work.loaders.calibration(max(recipe.calibration_batches, -(-wanted // recipe.batch_size))),
            protect=recipe.protect,
            seed=recipe.seed,
        )
    except ScheduleError as cause:
        least = -(-cause.needed // steps)
        message = f"{cause} Here an epoch has {steps} steps: give --prune-epochs {least} or more."
        raise BudgetError(message) from cause


def cut_while_training(work: Work, dense: nn.Module) -> Cut:
    """Prune while the network trains."""
    recipe, model = work.recipe, copy.deepcopy(dense)
    work.tell(f"Pruning {recipe.model} by {recipe.method} while it trains: {recipe.prune_epochs} epochs")
    settings = optimisation(recipe, "prune")
    session = session_of(work, model)
    history = fit_session(session, work.loaders, settings, place=work.place("pruning"), resume=True)
    events = [str(event) for event in session.history]
    zeros = sum(int((~mask.bool()).sum()) for mask in held_at_zero(session).values())
    record = {"history": [asdict(epoch) for epoch in history], "events": events, "zeros": zeros}
    return model.cpu(), session.plan, record


def held_at_zero(session: sct.Session) -> dict[str, torch.Tensor]:
    """The masks of single weights and columns, as large as their tensors."""
    tensors = dict(session.model.named_parameters())
    return {name: mask.expand_as(tensors[name]) for name, mask in session.masks.items()}


def recover(work: Work, pruned: nn.Module, dense: nn.Module) -> nn.Module:
    """Give the network back its accuracy: first without training, then by fine-tuning; save what comes out."""
    recipe = work.recipe
    if record := work.folder.done("recovered", "accuracy", "seconds"):
        work.say("recovered", record, "done before")
        return work.again(work.fresh(), Path())
    start = time.monotonic()
    seed_everything(recipe.seed, verbose=False)
    model = before_training(work, pruned, dense)
    work.close(f"{recipe.recover.removesuffix('e')}ed", {"accuracy": work.validate(model)}, start)
    start, history = time.monotonic(), []
    if recipe.epochs:
        work.tell(f"Fine-tuning the pruned network: {recipe.epochs} epochs")
        settings = optimisation(recipe, "recover")
        teacher = sct.Distil(weight=recipe.distil).loss(dense) if recipe.distil else None
        fitted = fit(model, work.loaders, settings, place=work.place("recovery"), resume=True, teacher=teacher)
        history = [asdict(epoch) for epoch in fitted.history]
    sct.save(model, sct.load_plan(work.folder.path / PRUNED), work.folder.path, overwrite=True)
    work.close("recovered", {"accuracy": work.validate(model), "history": history}, start)
    return model


def before_training(work: Work, pruned: nn.Module, dense: nn.Module) -> nn.Module:
    """What a recipe does first: BatchNorm's statistics again, or every layer again."""
    recipe, device = work.recipe, work.device()
    if recipe.recover == "recalibrate":
        return sct.recalibrate(pruned.to(device), work.loaders.shuffled(0), recipe.calibration_batches).cpu()
    plan = sct.load_plan(work.folder.path / PRUNED)
    data = work.loaders.calibration(recipe.calibration_batches)
    steps = (sct.Recalibrate(), sct.Reconstruct(seed=recipe.seed))
    model = sct.recover(pruned.to(device), dense.to(device), data, plan=plan, steps=steps).cpu()
    dense.cpu()
    return model


def stages(work: Work) -> tuple[Stage, ...]:
    """Where the run stood after each stage that is done."""
    records = {
        name: work.folder.done(name, "accuracy", "seconds")
        for name in ("trained", "pruned", "recalibrated", "reconstructed", "recovered")
    }
    return tuple(
        Stage(name, r["accuracy"], r["seconds"], tuple(r.get("history", ()))) for name, r in records.items() if r
    )
