"""Published weights by name: torchvision's, timm's and those of a repository of the Hugging Face Hub."""

from __future__ import annotations

import importlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from secateurs.errors import InputError, RecipeError, near

if TYPE_CHECKING:
    from collections.abc import Generator
    from types import ModuleType

    from torch import Tensor, nn

SOURCES = ("torchvision", "timm", "hf")
"""Sources whose weights have names; the others take files."""

DEFAULT = "DEFAULT"
"""The weights that their publisher recommends."""

EXTRAS = {"transformers": "hub"}
"""Extras that bring a package; those of models are in `zoo`."""


def package(name: str) -> ModuleType:
    """Import a package of models; InputError names the extra to install."""
    try:
        return importlib.import_module(name)
    except ImportError as missing:
        extra = EXTRAS.get(name.partition(".")[0], "zoo")
        raise InputError(
            f"{name} cannot be imported ({missing}), so its models cannot be built; install it: "
            f"python -m pip install 'secateurs[{extra}]'"
        ) from missing


def has_named_weights(model: str) -> bool:
    """True if this model's weights have names.

    >>> has_named_weights("torchvision:resnet18"), has_named_weights("net.py:net"), has_named_weights("resnet20")
    (True, False, False)
    """
    source, colon, _ = model.partition(":")
    return bool(colon) and source in SOURCES


def published_state(model: str, weights: str, in_channels: int) -> dict[str, Tensor]:
    """Return the published state dict of this name, with its own classes, downloaded or from the cache."""
    source, _, entry = model.partition(":")
    make = {"torchvision": _torchvision_state, "timm": _timm_state, "hf": _hf_state}[source]
    with told(model, weights):
        return make(entry, weights, in_channels)


def published_classes(model: str, weights: str) -> int:
    """Number of classes of the published weights."""
    source, _, entry = model.partition(":")
    with told(model, weights):
        if source == "torchvision":
            return len(torchvision_weights(entry, weights).meta["categories"])
        if source == "timm":
            return int(package("timm").get_pretrained_cfg(timm_name(entry, weights)).num_classes)
        return int(hf_config(entry, weights).num_labels)


def torchvision_weights(entry: str, weights: str) -> Any:
    """The member of torchvision's enumeration."""
    known = package("torchvision.models").get_model_weights(entry)
    if weights not in known.__members__:  # which has DEFAULT too
        raise RecipeError(f"torchvision:{entry} has no weights {weights!r}; {near(weights, known.__members__)}")
    return known[weights]


def _torchvision_state(entry: str, weights: str, in_channels: int) -> dict[str, Tensor]:
    return dict(torchvision_weights(entry, weights).get_state_dict(progress=False, check_hash=True, weights_only=True))


def timm_name(entry: str, weights: str) -> str:
    """Return the timm name with its pretrained tag: its own, or the requested one."""
    timm = package("timm")
    architecture, _, tag = entry.partition(".")
    if weights == DEFAULT:
        known: list[str] = timm.list_pretrained(f"{architecture}*")
        if not any(name == entry or name.partition(".")[0] == architecture for name in known):
            raise RecipeError(f"timm has no weights for {architecture}; leave --weights out, or name a file")
        return entry
    chosen = f"{architecture}.{weights}"
    known = [name.partition(".")[2] for name in timm.list_pretrained(f"{architecture}.*")]
    if weights not in known or (tag and tag != weights):
        raise RecipeError(f"timm:{entry} has no weights {weights!r}; {near(weights, [DEFAULT, *known])}")
    return chosen


def _timm_state(entry: str, weights: str, in_channels: int) -> dict[str, Tensor]:
    model: nn.Module = package("timm").create_model(timm_name(entry, weights), pretrained=True, in_chans=in_channels)
    return dict(model.state_dict())


def hf_config(entry: str, weights: str = DEFAULT, **given: Any) -> Any:
    """Return the configuration of a Hub repository or folder; none of its code is run."""
    revision = "main" if weights == DEFAULT else weights
    return package("transformers").AutoConfig.from_pretrained(
        entry, revision=revision, trust_remote_code=False, **given
    )


def hf_shape(entry: str) -> tuple[int, ...]:
    """Return the input shape of a repository's model."""
    with told(f"hf:{entry}", DEFAULT):
        config = hf_config(entry)
    side, channels = getattr(config, "image_size", 224), getattr(config, "num_channels", 3)
    return (1, channels, side, side) if isinstance(side, int) else (1, channels, *side)


def hf_model(entry: str, in_channels: int, num_classes: int) -> nn.Module:
    """Return the image classifier of a repository, newly initialised, with the requested number of classes."""
    with told(f"hf:{entry}", DEFAULT):
        config = hf_config(entry, num_labels=num_classes)
        if hasattr(config, "num_channels"):
            config.num_channels = in_channels
        return package("transformers").AutoModelForImageClassification.from_config(config, trust_remote_code=False)


def _hf_state(entry: str, weights: str, in_channels: int) -> dict[str, Tensor]:
    classes: Any = package("transformers").AutoModelForImageClassification
    revision = "main" if weights == DEFAULT else weights
    # safetensors only: a pickle in the repository is never opened.
    model = classes.from_pretrained(entry, revision=revision, use_safetensors=True, trust_remote_code=False)
    return dict(model.state_dict())


@contextmanager
def told(model: str, weights: str, otherwise: str = "or name a file: --weights FILE") -> Generator[None]:
    """Turn errors of a download or of loading weights into one sentence."""
    try:
        yield
    except InputError:
        raise
    except (OSError, RuntimeError, ValueError, KeyError) as cause:
        reason = " ".join(str(cause).split())[:200] or type(cause).__name__
        raise InputError(
            f"the weights {weights} of {model} are not in the cache and could not be fetched ({reason}); "
            f"fetch them once where there is a network, {otherwise}"
        ) from cause
