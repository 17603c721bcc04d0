"""Check a recipe against its data: without labels, only one-shot pruning and reconstruction are possible."""

from torch import nn

from secateurs.app.cli.recipe import Recipe
from secateurs.app.data import Splits
from secateurs.app.training import Loaders, check_shape
from secateurs.errors import InputError
from secateurs.session import TrainingMethod


def check_task(recipe: Recipe, loaders: Loaders, model: nn.Module, method: object) -> None:
    """Refuse recipes that are impossible with the run's data, before any work."""
    splits = loaders.splits
    if recipe.task is not None and recipe.task != splits.task:
        raise InputError(
            f"--task {recipe.task} and --data {recipe.data} do not belong together; segmentation takes masks:ROOT, "
            "detection coco:ROOT, classification takes digits, cifar10:ROOT, cifar100:ROOT or imagefolder:ROOT"
        )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError(
            f"{recipe.model} has no parameters to train, so nothing of it can be pruned; name another model"
        )
    if splits.task != "classification":
        for name in ("distil", "mixup", "cutmix"):
            if getattr(recipe, name):
                raise InputError(f"--{name} compares or mixes whole images with one class each; leave it out here")
    if splits.task == "none":
        _check_images_alone(recipe, splits, method)
    check_shape(model, loaders.example(), splits)


def _check_images_alone(recipe: Recipe, splits: Splits, method: object) -> None:
    if recipe.epochs:
        raise InputError(f"{splits.name} have no labels to fine-tune by; give --epochs 0, or data with labels")
    if isinstance(method, TrainingMethod):
        raise InputError(
            f"{recipe.method} prunes while the network trains, and {splits.name} have no labels to train by; choose a "
            "method that prunes at once, for example --method l2"
        )
