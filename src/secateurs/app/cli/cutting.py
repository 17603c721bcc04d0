"""The pruning stage: in one shot, or by a session while the network trains."""

import copy
from dataclasses import asdict

import torch
from torch import nn

import secateurs as sct
from secateurs.app.cli.from_recipe import optimisation, stepping
from secateurs.app.cli.parts import allocators
from secateurs.app.cli.work import Cut, Work
from secateurs.app.training import fit_session, loss_of
from secateurs.errors import BudgetError, RecipeError, ScheduleError


def cut_at_once(work: Work, dense: nn.Module) -> Cut:
    """Prune in one shot."""
    recipe, device = work.recipe, work.device()

    def choose() -> tuple[nn.Module, sct.Plan]:
        result = sct.prune(
            dense.to(device),
            work.loaders.example().to(device),
            method=work.method,
            budget=work.budget,
            data=work.loaders.calibration(recipe.calibration_batches),
            loss=loss_of(work.loaders.splits),
            protect=recipe.protect,
            seed=recipe.seed,
            allocator=None if recipe.ranking == "mean" else allocators()[recipe.ranking],
        )
        return result.model.cpu(), result.plan

    return *work.shared(choose), {}


def session_of(work: Work, model: nn.Module) -> sct.Session:
    """Start a session on a model; it fits a schedule that is longer than its epochs."""
    recipe, epochs = work.recipe, work.recipe.prune_epochs
    if getattr(work.method, "unit", "filter") != "filter" and recipe.epochs:
        raise RecipeError(
            f"--method.unit {work.method.unit} leaves zeros inside dense tensors, and fine-tuning would fill them. "
            "Give --epochs 0."
        )
    steps = stepping(recipe).steps(len(work.pruning_loaders.shuffled(0)))
    wanted = int(getattr(work.method, "samples", 0))  # give a method the number of images that its `samples` asks for
    try:
        return sct.Session(
            model,
            work.loaders.example(),
            method=work.method,
            budget=work.budget,
            steps_per_epoch=steps,
            epochs=epochs,
            data=work.loaders.calibration(max(recipe.calibration_batches, -(-wanted // recipe.batch_size))),
            loss=loss_of(work.loaders.splits),
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
    session, loaders = session_of(work, model), work.pruning_loaders
    history = fit_session(session, loaders, settings, place=work.place("pruning"), resume=True)
    events = [str(event) for event in session.history]
    zeros = sum(int((~mask.bool()).sum()) for mask in held_at_zero(session).values())
    record = {"history": [asdict(epoch) for epoch in history], "events": events, "zeros": zeros}
    return model.cpu(), session.plan, record


def held_at_zero(session: sct.Session) -> dict[str, torch.Tensor]:
    """Return the masks of single weights and columns, in the shapes of their tensors."""
    tensors = dict(session.model.named_parameters())
    return {name: mask.expand_as(tensors[name]) for name, mask in session.masks.items()}
