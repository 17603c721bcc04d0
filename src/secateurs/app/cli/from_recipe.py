"""Turn the fields of a recipe into the values that its stages take."""

from typing import Any, Literal

from secateurs.app.cli.parts import allocators
from secateurs.app.cli.recipe import Recipe
from secateurs.app.data import Augmentation
from secateurs.app.training import Optimisation, Stepping
from secateurs.app.training.rates import Rate
from secateurs.criteria import Criterion
from secateurs.errors import InputError
from secateurs.methods import Gradual
from secateurs.session.schedule import Cubic, Exponential, Linear

Part = Literal["train", "prune", "recover"]
PARTS: tuple[Part, ...] = ("train", "prune", "recover")
"""The trainings of a run: of the dense network, with a pruning method, and after removal."""

SCHEDULES = {"linear": Linear, "cubic": Cubic, "exponential": Exponential}


def optimisation(recipe: Recipe, part: Part) -> Optimisation:
    """Return the settings of one of the run's trainings; Optimisation, Rate and Stepping check them.

    >>> from secateurs.app.cli.recipe import Recipe
    >>> recipe = Recipe(lr=0.01, schedule="multi-step", milestones=(20, 30), prune_lr=0.001, prune_schedule="constant")
    >>> pruning, recovery = optimisation(recipe, "prune"), optimisation(recipe, "recover")
    >>> pruning.lr, pruning.rate.milestones, recovery.lr, recovery.rate.milestones
    (0.001, (), 0.01, (20, 30))
    """
    epochs, lr, own, milestones = recipe.epochs, recipe.lr, None, ()
    if part == "train":
        epochs, lr = recipe.train_epochs, recipe.train_lr
        own, milestones = recipe.train_schedule, recipe.train_milestones
    elif part == "prune":
        epochs, lr = recipe.prune_epochs, recipe.lr if recipe.prune_lr is None else recipe.prune_lr
        own, milestones = recipe.prune_schedule, recipe.prune_milestones
    # A training with its own schedule has its own milestones.
    shape, steps = (own, milestones) if own else (recipe.schedule, milestones or recipe.milestones)
    return Optimisation(
        epochs,
        lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        rate=Rate(
            shape,
            steps,
            recipe.gamma,
            recipe.warmup,
            recipe.step_every if shape == "step" else None,
            recipe.prune_cycles if part == "prune" else 1,
        ),
        nesterov=recipe.nesterov,
        decay_norms=recipe.decay_norms,
        label_smoothing=recipe.label_smoothing,
        stepping=stepping(recipe),
    )


def stepping(recipe: Recipe) -> Stepping:
    """The options of a training step, which all of the run's trainings share."""
    return Stepping(
        precision=recipe.precision,
        channels_last=recipe.channels_last,
        accumulate=recipe.accumulate,
        clip=recipe.clip,
        ema=recipe.ema,
        mixup=recipe.mixup,
        cutmix=recipe.cutmix,
    )


def augmentation(recipe: Recipe) -> Augmentation:
    """The augmentation of training images."""
    return Augmentation(recipe.crop, recipe.randaugment, recipe.randaugment_magnitude, recipe.erase)


def in_rounds(recipe: Recipe, method: Any) -> Any:
    """Return the method, or the criterion in `rounds` rounds.

    >>> from secateurs.criteria import Magnitude
    >>> in_rounds(Recipe(rounds=5), Magnitude()).steps(100)
    (1, 20, 40, 60, 80)
    """
    if not recipe.rounds:
        return method
    if not isinstance(method, Criterion) or recipe.rounds < 0:
        raise InputError(
            f"--rounds {recipe.rounds}: a criterion is measured and cut by in 1 or more rounds, and {recipe.method} is "
            "no criterion, or the number is none; leave --rounds out"
        )
    schedule, allocator = SCHEDULES[recipe.round_schedule](), allocators()[recipe.ranking]
    return Gradual(method, allocator=allocator, schedule=schedule, rounds=recipe.rounds, end=1.0, first="cut")
