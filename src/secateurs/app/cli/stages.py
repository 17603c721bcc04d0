"""The stages of a run: train, prune, recover, fine-tune, measure. Each runs once and is recorded."""

import copy
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning.pytorch import seed_everything
from torch import nn

import secateurs as sct
from secateurs.app.cli.controls import cut_control, trained_elsewhere
from secateurs.app.cli.cutting import cut_at_once, cut_while_training
from secateurs.app.cli.from_recipe import optimisation
from secateurs.app.cli.pretrained import initialise
from secateurs.app.cli.work import LAST, PRUNED, TRAINED, Work
from secateurs.app.report import Stage
from secateurs.app.training import Fitted, fit
from secateurs.app.training.machines import once
from secateurs.session import TrainingMethod


def train(work: Work) -> nn.Module:
    """Return the trained dense network: of an earlier start, from the weights file, or trained now."""
    recipe = work.recipe
    if record := work.done("trained", "accuracy", "seconds"):
        work.say("trained", record, "done before")
        return work.again(work.folder.path / TRAINED)[0]
    start, record = time.monotonic(), {}
    scratch = recipe.control == "scratch"
    model = trained_elsewhere(work) if scratch else work.fresh()
    if not scratch and initialise(model, recipe, work.loaders.splits) and recipe.train_epochs:
        work.tell(f"Training {recipe.model} on {work.loaders.splits.name}: {recipe.train_epochs} epochs")
        settings = optimisation(recipe, "train")
        fitted = fit(model, work.loaders, settings, place=work.place("training"), resume=True)
        record = {"epoch": fitted.best.epoch, "history": [asdict(epoch) for epoch in fitted.history]}
    graph = sct.trace(model, work.loaders.example())
    work.save(model, sct.Plan.identity(graph), TRAINED)
    work.close("trained", {"accuracy": work.validate(model), **record}, start)
    return model


def cut(work: Work, dense: nn.Module) -> tuple[nn.Module, sct.Plan]:
    """Return the pruned network and its plan: choose, prove, remove, and verify the outputs."""
    if record := work.done("pruned", "accuracy", "seconds"):
        work.say("pruned", record, "done before")
        return work.again(work.folder.path / PRUNED)
    start = time.monotonic()
    seed_everything(work.recipe.seed, verbose=False)
    if work.recipe.control != "none":
        pruned, plan, more = cut_control(work, dense)
    elif isinstance(work.method, TrainingMethod):
        pruned, plan, more = cut_while_training(work, dense)
    else:
        pruned, plan, more = cut_at_once(work, dense)
    work.save(pruned, plan, PRUNED)
    record = once(lambda: _verified(work, dense, plan))
    work.close("pruned", {"accuracy": work.validate(pruned), **record, **more}, start)
    return pruned, plan


def _verified(work: Work, dense: nn.Module, plan: sct.Plan) -> dict[str, Any]:
    """Verify the plan, and print the network's cost before and after."""
    verified = sct.verify(plan, dense.cpu(), work.loaders.pictures(4), per_group=False)
    verified.raise_if_failed()
    graph = sct.trace(dense, work.loaders.example(), protect=work.recipe.protect)
    return {
        "before": asdict(graph.cost()),
        "after": asdict(graph.cost(plan)),
        "groups": {g.name: [g.units, len(plan.keep[g.name])] for g in graph.groups},
        "error": verified.error,
        "tolerance": verified.tolerance,
        "deviation": verified.deviation,
    }


def recover(work: Work, pruned: nn.Module, plan: sct.Plan, dense: nn.Module) -> nn.Module:
    """Recover the network's accuracy, first without training, then by fine-tuning; save the result."""
    recipe = work.recipe
    if record := work.done("recovered", "accuracy", "seconds"):
        work.say("recovered", record, "done before")
        return work.again(work.folder.path)[0]
    start = time.monotonic()
    seed_everything(recipe.seed, verbose=False)
    model, _ = work.shared(lambda: (before_training(work, pruned, dense, plan), plan))
    work.close(f"{recipe.recover.removesuffix('e')}ed", {"accuracy": work.validate(model)}, start)
    start, history = time.monotonic(), []
    if recipe.epochs:
        work.tell(f"Fine-tuning the pruned network: {recipe.epochs} epochs")
        settings = optimisation(recipe, "recover")
        teacher = sct.Distil(weight=recipe.distil).loss(dense) if recipe.distil else None
        fitted = fit(model, work.loaders, settings, place=work.place("recovery"), resume=True, teacher=teacher)
        history = [asdict(epoch) for epoch in fitted.history]
        _keep_last(work, model, fitted, plan)
    work.save(model, plan, Path())
    work.close("recovered", {"accuracy": work.validate(model), "history": history}, start)
    return model


def _keep_last(work: Work, model: nn.Module, fitted: Fitted, plan: sct.Plan) -> None:
    """Save the network of the last epoch, next to the one that validated best."""
    last = copy.deepcopy(model)
    last.load_state_dict(fitted.last)
    work.save(last, plan, LAST)


def before_training(work: Work, pruned: nn.Module, dense: nn.Module, plan: sct.Plan) -> nn.Module:
    """Recover before fine-tuning, as the recipe says: new BatchNorm statistics, or reconstruction of every layer."""
    recipe, device = work.recipe, work.device()
    if recipe.recover == "recalibrate":
        return sct.recalibrate(pruned.to(device), work.loaders.shuffled(0), batches=recipe.calibration_batches).cpu()
    data = work.loaders.calibration(recipe.calibration_batches)
    steps = (sct.Recalibrate(), sct.Reconstruct(seed=recipe.seed))
    model = sct.recover(pruned.to(device), dense.to(device), data, plan=plan, steps=steps).cpu()
    dense.cpu()
    return model


def stages(work: Work) -> tuple[Stage, ...]:
    """The finished stages, with the validation accuracy after each."""
    records = {
        name: work.folder.done(name, "accuracy", "seconds")
        for name in ("trained", "pruned", "recalibrated", "reconstructed", "recovered")
    }
    return tuple(
        Stage(name, r["accuracy"], r["seconds"], tuple(r.get("history", ()))) for name, r in records.items() if r
    )
