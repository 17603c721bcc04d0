"""Build a network by its name on the command line: ours, torchvision's, timm's, or a function in a user's file."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from secateurs.app.choices import MODELS, NETWORKS
from secateurs.app.models.zoo import hf_model, hf_shape, package
from secateurs.app.user_code import neighbours_importable
from secateurs.errors import InputError, ModelError, RecipeError, near

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from importlib.abc import Loader
    from types import ModuleType

# Without this torchvision warns on every construction that its default will change one day.
_TORCHVISION_EXTRA = {"googlenet": {"init_weights": True}, "inception_v3": {"init_weights": True}}


def build(name: str, *, in_channels: int, num_classes: int) -> nn.Module:
    """The network called `name`, freshly initialised, for images of `in_channels` channels and `num_classes` classes.

    >>> build("resnet20", in_channels=1, num_classes=10).conv1
    Conv2d(1, 16, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), bias=False)
    """
    check_name(name)
    if name in NETWORKS:
        module, _, function = NETWORKS[name].partition(":")
        return getattr(importlib.import_module(f"secateurs.app.models.{module}"), function)(in_channels, num_classes)
    source, _, entry = name.partition(":")
    if source == "torchvision":
        return _from_torchvision(entry, in_channels, num_classes)
    if source == "timm":
        return _from_timm(entry, in_channels, num_classes)
    if source == "hf":
        return hf_model(entry, in_channels, num_classes)
    return _from_file(name, in_channels, num_classes)


def check_name(name: str) -> None:
    """Refuse a name that cannot be built, before any work; does not build it.

    >>> check_name("resnet21")
    Traceback (most recent call last):
    secateurs.errors.RecipeError: no model is called 'resnet21'; did you mean 'resnet32' or 'resnet20'? Known: ...
    """
    if name in NETWORKS:
        return
    source, colon, entry = name.partition(":")
    if colon and source == "torchvision":
        _check_entry(name, entry, _torchvision_builders())
    elif colon and source == "timm":
        _check_entry(name, entry.partition(".")[0], package("timm").list_models())
    elif colon and entry and source == "hf":
        package("transformers")
    elif colon and name.rpartition(":")[0].endswith(".py"):
        path = Path(name.rpartition(":")[0])
        if not path.is_file():
            raise InputError(f"{path} of the model {name!r} is not there; give the path of a Python file")
    elif name.endswith(".py"):
        raise RecipeError(f"the model {name!r} names a file but no function in it; write {name}:FUNCTION")
    else:
        raise RecipeError(f"no model is called {name!r}; {near(name, MODELS)}")


def native_shape(name: str) -> tuple[int, ...] | None:
    """Return the input shape of a named network; None if it is unknown."""
    if name in NETWORKS:
        return (1, 3, 32, 32)
    source = name.partition(":")[0]
    if source == "torchvision":
        return (1, 3, 299, 299) if name.endswith(":inception_v3") else (1, 3, 224, 224)
    if source == "timm":
        config = package("timm").get_pretrained_cfg(name.partition(":")[2], allow_unregistered=False)
        return (1, *config.input_size) if config is not None else (1, 3, 224, 224)
    if source == "hf":
        return hf_shape(name.partition(":")[2])
    return None


def _check_entry(name: str, entry: str, known: list[str]) -> None:
    if entry not in known:
        hint = near(entry, known).split(" Known: ")[0] if len(known) > 60 else near(entry, known)
        source = name.partition(":")[0]
        raise RecipeError(f"{source} has no model for images called {entry!r}; {hint.strip()}")


def _torchvision_builders() -> list[str]:
    models = package("torchvision.models")
    return [
        *models.list_models(module=models),
        *models.list_models(module=models.segmentation),
        *models.list_models(module=models.detection),
    ]


def _from_torchvision(entry: str, in_channels: int, num_classes: int) -> nn.Module:
    if in_channels != 3:
        raise InputError(
            f"torchvision:{entry} takes images of 3 channels and the data has {in_channels}; "
            "use timm:NAME, whose models take any number, or a function of your own: path.py:function"
        )
    models = package("torchvision.models")
    # Published segmentation networks have the auxiliary head; their backbones are loaded with them, not before.
    wanted = {"aux_loss": True, "weights_backbone": None}
    taken = inspect.signature(models.get_model_builder(entry)).parameters
    given = {key: value for key, value in wanted.items() if key in taken}
    return models.get_model(entry, weights=None, num_classes=num_classes, **given, **_TORCHVISION_EXTRA.get(entry, {}))


def _from_timm(entry: str, in_channels: int, num_classes: int) -> nn.Module:
    return package("timm").create_model(entry, pretrained=False, in_chans=in_channels, num_classes=num_classes)


def _from_file(name: str, in_channels: int, num_classes: int) -> nn.Module:
    file, _, function = name.rpartition(":")
    with _importable(Path(file)) as module:
        builder = getattr(module, function, None)
        if not callable(builder):
            public = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
            raise RecipeError(f"{file} has no function {function!r}; {near(function, public)}")
        wanted = {"in_channels": in_channels, "num_classes": num_classes}
        try:
            model = builder(**_accepted(builder, wanted))
        except (Exception, SystemExit) as cause:
            raise ModelError(f"{name} raised {type(cause).__name__}: {cause}") from cause
    if not isinstance(model, nn.Module):
        raise ModelError(f"{name} returned {type(model).__name__}, not a torch.nn.Module; return the network itself")
    return model


def _accepted(builder: Callable[..., Any], wanted: dict[str, int]) -> dict[str, int]:
    parameters = inspect.signature(builder).parameters
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return {key: value for key, value in wanted.items() if anything or key in parameters}


@contextmanager
def _importable(path: Path) -> Generator[ModuleType]:
    """Import a file; meanwhile, modules in its folder can be imported, as with `python path.py`."""
    spec = importlib.util.spec_from_file_location(f"secateurs_user_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} cannot be imported as Python; give the path of a .py file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # needed by dataclasses that the file defines
    with neighbours_importable(path):
        _execute(spec.loader, module, path)
        yield module


def _execute(loader: Loader, module: ModuleType, path: Path) -> None:
    try:
        loader.exec_module(module)
    except (Exception, SystemExit) as cause:
        raise ModelError(f"{path} cannot be imported: {type(cause).__name__}: {cause}") from cause
