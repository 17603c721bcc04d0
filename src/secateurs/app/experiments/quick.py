"""Shorten a recipe to minutes: the same stages with few images and epochs. Its figures are meaningless."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from secateurs.app.cli.arguments import chosen_method
from secateurs.app.cli.recipe import Recipe
from secateurs.session import TrainingMethod

IMAGES, BATCH, SIDE, PRUNING = 8, 2, 32, 4
"""Training images, images in a batch, pixels a side of what was larger, and epochs of a training that prunes: what is
left of a row are seconds of one core."""


def quick(recipe: Recipe, *, stand_in: bool) -> Recipe:
    """Shorten a recipe; with `stand_in` it runs on enlarged handwritten digits instead of its own data.

    Steps of the learning rate keep their order and, up to whole epochs, their shares of the run. Rates shrink with the
    batch, in proportion (Goyal et al. 2017), and gradients are clipped: BatchNorm over two values has steep ones.

    >>> short = quick(Recipe(epochs=160, lr=0.1, schedule="multi-step", milestones=(80, 120)), stand_in=True)
    >>> short.epochs, short.milestones, short.data, short.lr, short.batch_size
    (3, (1, 2), 'digits:32', 0.0015625, 2)
    """
    large = recipe.data.partition(":")[0] == "imagefolder"
    train, after = _epochs(recipe.train_epochs, recipe.train_milestones), _epochs(recipe.epochs, recipe.milestones)
    if recipe.weights is None and not train and not isinstance(chosen_method(recipe), TrainingMethod):
        train = 1
    batch = min(recipe.batch_size, BATCH)
    share = batch / recipe.batch_size
    return replace(
        recipe,
        label=f"{recipe.label} (quick)",
        data=f"digits:{SIDE if large else 32}" if stand_in else recipe.data,
        images=IMAGES,
        image_size=SIDE,
        image_resize=None,
        batch_size=batch,
        train_lr=recipe.train_lr * share,
        prune_lr=None if recipe.prune_lr is None else recipe.prune_lr * share,
        lr=recipe.lr * share,
        clip=recipe.clip or 1.0,
        prune_batch_size=None,
        calibration_batches=min(recipe.calibration_batches, IMAGES // BATCH),
        train_epochs=train,
        train_milestones=_steps(recipe.train_milestones, recipe.train_epochs, train),
        prune_epochs=min(recipe.prune_epochs, PRUNING),
        prune_milestones=_steps(recipe.prune_milestones, recipe.prune_epochs, min(recipe.prune_epochs, PRUNING)),
        epochs=after,
        milestones=_steps(recipe.milestones, recipe.epochs, after),
        step_every=None if recipe.step_every is None else 1,
        warmup=None if recipe.warmup is None else min(recipe.warmup, 1.0),
    )


def _epochs(full: int, milestones: Sequence[int]) -> int:
    """Return the fewest epochs: one before every step of the rate and one after the last; 0 if there were none."""
    return min(full, len(milestones) + 1)


def _steps(milestones: Sequence[int], full: int, short: int) -> tuple[int, ...]:
    """Return the epochs of the steps in a shorter run, in increasing order.

    >>> _steps((60, 120, 160), 200, 12), _steps((100, 150), 200, 3)
    ((4, 7, 10), (1, 2))
    """
    found: list[int] = []
    for place, milestone in enumerate(milestones):
        least, most = (found[-1] + 1 if found else 1), short - len(milestones) + place
        found.append(min(max(least, round(milestone * short / max(1, full))), max(least, most)))
    return tuple(found)
