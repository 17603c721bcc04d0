"""Controls: runs of a recipe with another method, or none, for comparison.

A control trains as long and at the same rates as the run that it is compared with; only the pruning differs.

| control | dense training | while the method would prune | then | fine-tuning |
|---|---|---|---|---|
| random, l2 | the same | trains, nothing is pruned | units go at once, drawn or of the smallest L2 norm | the same |
| dense | the same | trains, nothing is pruned | nothing is removed | the same |
| scratch | of the small network | of the small network | | the same |
"""

from __future__ import annotations

import copy
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning.pytorch import seed_everything
from torch import nn

import secateurs as sct
from secateurs.app.cli.cutting import cut_at_once
from secateurs.app.cli.from_recipe import Part, optimisation
from secateurs.app.cli.recipe import Recipe
from secateurs.app.cli.report_file import finished
from secateurs.app.cli.run_folder import RunFolder
from secateurs.app.cli.work import TRAINED, Cut, Work
from secateurs.app.report import Report
from secateurs.app.training import fit
from secateurs.errors import InputError
from secateurs.registry import make
from secateurs.session import TrainingMethod


def check_control(recipe: Recipe) -> None:
    """Refuse a control that is impossible for this recipe."""
    if recipe.control == "none" and recipe.like is not None:
        raise InputError(
            "--like names the run that a control is as large as; add --control random, l2, scratch or dense"
        )
    if recipe.control == "scratch" and recipe.like is None:
        raise InputError("--control scratch trains the small network of a finished run; name that run: --like FOLDER")
    if recipe.control in ("scratch", "dense") and recipe.recover == "reconstruct":
        raise InputError(
            f"--recover reconstruct fits the layers of a pruned network to the dense one, and --control "
            f"{recipe.control} has no weights that came from there; leave it out"
        )
    if recipe.like is not None:
        report_of(recipe.like)


def report_of(run: Path) -> Report:
    """Return the report of a finished run; InputError if there is none."""
    report = finished(RunFolder(run))
    if report is None:
        raise InputError(f"{run} is no finished run, so a control cannot be as large; finish it: --resume")
    return report


def in_place_of(recipe: Recipe, method: Any, budget: sct.Budget | None) -> tuple[Any, sct.Budget | None]:
    """Return method and budget of a control that prunes; those of the recipe for any other run."""
    if recipe.control not in ("random", "l2"):
        return method, budget
    if recipe.like is not None:
        found = report_of(recipe.like).after
        budget = sct.Budget(
            macs=found.macs,
            min_keep=recipe.min_keep,
            min_keep_fraction=recipe.min_keep_fraction,
            multiple_of=recipe.multiple_of,
        )
    elif budget is None:
        raise InputError(
            f"--control {recipe.control} needs a budget, which {recipe.method} does without; add --like FOLDER, a "
            "finished run, or a budget, for example --macs 0.5"
        )
    return make(recipe.control, seed=recipe.seed), budget


def trained_elsewhere(work: Work) -> nn.Module:
    """Return the dense network of the run whose small network is trained from scratch."""
    return work.again(work.like / TRAINED)[0]


def cut_control(work: Work, dense: nn.Module) -> Cut:
    """Return the network of a control before fine-tuning, and its plan."""
    if work.recipe.control == "scratch":
        return _from_scratch(work)
    model, record = copy.deepcopy(dense), dict[str, Any]()
    if isinstance(work.replaced, TrainingMethod):
        record = _trained(work, model, "prune")
    if work.recipe.control == "dense":
        return model, sct.Plan.identity(sct.trace(model, work.loaders.example())), record
    pruned, plan, _ = cut_at_once(work, model)
    return pruned, plan, record


def _from_scratch(work: Work) -> Cut:
    """Prune the network by the plan of the other run, initialise it anew, and train it like the dense one."""
    _, plan = work.again(work.like)
    model = anew(sct.apply(plan, work.fresh()), work.recipe.seed)
    history: list[dict[str, Any]] = []
    if work.recipe.train_epochs:
        history += _trained(work, model, "train")["history"]
    if isinstance(work.replaced, TrainingMethod):
        history += _trained(work, model, "prune")["history"]
    return model.eval(), plan, {"history": history}


def anew(model: nn.Module, seed: int) -> nn.Module:
    """Initialise every module by its own `reset_parameters`, from the seed; other parameters are unchanged."""
    seed_everything(seed, verbose=False)
    for module in model.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
    return model


def _trained(work: Work, model: nn.Module, part: Part) -> dict[str, Any]:
    """Run one of the recipe's trainings without pruning."""
    name = {"train": "training", "prune": "pruning", "recover": "recovery"}[part]
    work.tell(f"Training without pruning, as a control ({name})")
    loaders = work.pruning_loaders if part == "prune" else work.loaders
    settings = optimisation(work.recipe, part)
    fitted = fit(model, loaders, settings, place=work.place(name), resume=True)
    return {"history": [asdict(epoch) for epoch in fitted.history]}
