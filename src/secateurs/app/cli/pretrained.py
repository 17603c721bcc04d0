"""Load trained weights, published or from a file, into a newly built network, or say why that is impossible."""

import pickle
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from secateurs.app import models
from secateurs.app.cli.recipe import Recipe
from secateurs.app.data.sources import RESIZED
from secateurs.app.data.splits import Splits
from secateurs.errors import InputError
from secateurs.store.save import PLAN

PICKLES = (b"PK\x03\x04", b"\x80")
"""First bytes of files written by torch.save and pickle.dump."""

MINTED = "num_batches_tracked"
"""Counters that old checkpoints lack and inference does not use."""

WRAPPED = ("state_dict", "model_state_dict", "model")
"""Keys under which training scripts store the state dict in a larger checkpoint."""


def names_weights(recipe: Recipe) -> bool:
    """True if the weights of a recipe are named published ones, not a file.

    >>> names_weights(Recipe(model="timm:resnet18", weights="DEFAULT")), names_weights(Recipe(weights="a.safetensors"))
    (True, False)
    """
    if recipe.weights is None or not models.has_named_weights(recipe.model):
        return False
    path = Path(recipe.weights).expanduser()
    return not (path.suffix in {".safetensors", ".pth", ".pt", ".bin", ".ckpt"} or len(path.parts) > 1 or path.exists())


def reads_files(recipe: Recipe) -> bool:
    """Return whether the recipe's preprocessing applies: digits have their own, detectors normalise by themselves."""
    return recipe.data.partition(":")[0] not in ("digits", "coco")


def image_words(recipe: Recipe, splits: Splits) -> str:
    """Describe what is done to the images; CIFAR's and Tiny-ImageNet's keep their size."""
    how = recipe.preprocessing()
    if recipe.data.partition(":")[0] in RESIZED:
        return str(how)
    return f"{splits.shape[-1]} pixels a side, as they are; {how.statistics()}"


def with_preprocessing(recipe: Recipe) -> Recipe:
    """Return the recipe with its preprocessing filled in: settings not given are those of the published weights.

    Without published weights, or if none is published with them, they are ImageNet's.
    """
    if not reads_files(recipe):
        return recipe
    named = {"image_size": "size", "image_resize": "resize", "image_mean": "mean", "image_std": "std"}
    named |= {"interpolation": "interpolation"}
    open_ = {field: name for field, name in named.items() if getattr(recipe, field) is None}
    if recipe.image_size is not None:
        open_.pop("image_resize", None)  # it belongs to another size
    if not open_:
        return recipe
    found = None
    if recipe.weights is not None and names_weights(recipe):
        models.check_name(recipe.model)
        found = models.published_preprocessing(recipe.model, recipe.weights)
    said = found or recipe.preprocessing()
    return replace(recipe, **{field: getattr(said, name) for field, name in open_.items()})


def classes_of(recipe: Recipe, splits: Splits) -> int:
    """Number of classes of a recipe's network: the data's, or with --keep-head its own."""
    if splits.task == "none" and recipe.weights is None:
        raise InputError(f"{splits.name} have no labels to train by; give trained weights: --weights FILE, or DEFAULT")
    if splits.task == "none" and recipe.weights is not None and not names_weights(recipe):
        return _classes_in(recipe, splits.shape[0], _read(Path(recipe.weights)))
    if (recipe.keep_head or splits.task == "none") and names_weights(recipe) and recipe.weights:
        own = models.published_classes(recipe.model, recipe.weights)
        if own < len(splits.classes):
            raise InputError(
                f"--keep-head: {recipe.model} tells {own} classes apart and the data has {len(splits.classes)}; "
                "leave it out, and the classifier is made anew for the data"
            )
        return own
    if recipe.keep_head:
        raise InputError("--keep-head is for published weights by name, for example --weights DEFAULT; leave it out")
    return len(splits.classes)


def check_pickle(recipe: Recipe, *, allowed: bool) -> None:
    """Refuse weights in a pickle file unless the command line allows it."""
    if recipe.weights is None or names_weights(recipe) or allowed:
        return
    path = Path(recipe.weights)
    if path.is_file() and _begin(path).startswith(PICKLES):
        raise InputError(
            f"{path} is a pickle: loading one runs whatever code it holds, so it is not opened unasked. --allow-pth "
            "loads tensors from it and refuses anything else (weights_only=True); or convert it once: "
            "safetensors.torch.save_file(torch.load(FILE, weights_only=True), 'weights.safetensors')"
        )


def initialise(model: nn.Module, recipe: Recipe, splits: Splits) -> tuple[str, ...]:
    """Load a recipe's weights into a newly built network; return the names of tensors that keep their initial values.

    These are the tensors whose shape depends on the number of classes (the classifier), if the weights have another
    number; they have to be trained.
    """
    if recipe.weights is None:
        return tuple(name for name, _ in model.named_parameters())
    channels, classes = splits.shape[0], classes_of(recipe, splits)
    if names_weights(recipe):
        place = f"{recipe.weights} of {recipe.model}"
        found = models.published_state(recipe.model, recipe.weights, channels)
    else:
        place, found = recipe.weights, _read(Path(recipe.weights))
    own = model.state_dict()
    differing = [n for n, tensor in found.items() if n in own and tensor.shape != own[n].shape]
    head = _class_tensors(recipe.model, channels, classes) if differing else frozenset[str]()
    kept = {name: tensor for name, tensor in found.items() if name not in differing or name not in head}
    fresh = tuple(name for name in own if name in differing and name in head)
    if fresh and not recipe.train_epochs:
        raise InputError(
            f"{', '.join(fresh)} of {recipe.model} is new, because the weights are of another number of classes than "
            "the data, and --train-epochs 0 would leave it untrained; give 1 or more"
        )
    load_weights(model, kept, place, fresh=fresh)
    return fresh


def _classes_in(recipe: Recipe, channels: int, found: Mapping[str, Tensor]) -> int:
    """Number of classes of the weights in a file, read from the size of a tensor that depends on it."""
    with torch.random.fork_rng(devices=[]):
        one, other = (
            models.build(recipe.model, in_channels=channels, num_classes=count).state_dict() for count in (10, 11)
        )
    for name, tensor in one.items():
        for dim, (size, larger) in enumerate(zip(tensor.shape, other[name].shape, strict=True)):
            if larger - size == 1 and name in found and found[name].dim() == tensor.dim():
                return found[name].shape[dim]
    return 10


def _class_tensors(name: str, channels: int, classes: int) -> frozenset[str]:
    """Return the tensors whose shape depends on the number of classes, by building the network for one class more."""
    with torch.random.fork_rng(devices=[]):
        one, other = (
            models.build(name, in_channels=channels, num_classes=count).state_dict() for count in (classes, classes + 1)
        )
    return frozenset(n for n, tensor in one.items() if n in other and tensor.shape != other[n].shape)


def load_weights(model: nn.Module, found: Mapping[str, Tensor], path: str, fresh: tuple[str, ...] = ()) -> None:
    """Load a state dict except for the tensors in `fresh`; all names and shapes are checked first."""
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    missing = [name for name in expected if name not in (*found, *fresh) and not name.endswith(MINTED)]
    unexpected = [name for name in found if name not in expected]
    differing = [n for n, t in found.items() if n in expected and tuple(t.shape) != expected[n]]
    if missing or unexpected:
        prefixed = all(name.startswith("module.") for name in found)
        remedy = "strip the 'module.' of DataParallel from its names" if prefixed else "name the model they belong to"
        raise InputError(
            f"{path} is not of this model:{_listing('lacks', missing)}{_listing('has', unexpected)}; {remedy}"
        )
    if differing:
        name = differing[0]
        if (Path(path).parent / PLAN).is_file():
            raise InputError(
                f"{path} is of a pruned network ({PLAN} lies beside it), and --weights takes those of the dense one: "
                f"{name} has shape {tuple(found[name].shape)} there and {expected[name]} here; read it in Python: "
                "secateurs.load(model, folder)"
            )
        raise InputError(
            f"{path} is not of this model: {name} has shape {tuple(found[name].shape)} there and {expected[name]} here"
            f"{f', and {len(differing) - 1} more differ' if len(differing) > 1 else ''}; "
            "the number of classes and of input channels comes from the data: check both"
        )
    types = {name: tensor.dtype for name, tensor in model.state_dict().items()}
    for name, tensor in found.items():
        if torch.promote_types(tensor.dtype, types[name]) != types[name] or tensor.is_floating_point() != (
            types[name].is_floating_point
        ):
            raise InputError(
                f"{path} is not of this model: {name} is {tensor.dtype} there and {types[name]} here, and would not "
                "come over unchanged; store the weights in the model's own type"
            )
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise InputError(f"{path} holds values in {name} that are NaN or infinite; take an earlier checkpoint")
    model.load_state_dict(dict(found), strict=False)


def _begin(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4)


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is not there"
        raise InputError(f"the weights {path}: this {what}; give a safetensors file")
    if _begin(path).startswith(PICKLES):
        return _unpickled(path)
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
    except (SafetensorError, OSError) as cause:
        raise InputError(f"{path} is no whole safetensors file ({cause}); store the state dict again") from cause


def _unpickled(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a torch.save file, loaded with weights_only; `check_pickle` has asked for consent."""
    try:
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError) as cause:
        reason = " ".join(str(cause).split())[:200]
        raise InputError(
            f"{path} does not hold tensors alone, or not whole ({reason}); store the state dict"
        ) from cause
    for key in WRAPPED:
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = cast("dict[str, Any]", found[key])
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise InputError(f"{path} holds no state dict; store model.state_dict()")
    return {str(name): tensor.detach() for name, tensor in cast("dict[str, Tensor]", found).items()}


def _listing(verb: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f" it {verb} {', '.join(names[:3])}{more}"
