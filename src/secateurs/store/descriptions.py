"""Module descriptions in a saved model, so that `load` can warn of another class or setting with the same tensors."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping

from torch import nn

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def descriptions(model: nn.Module) -> dict[str, str]:
    """Return module path -> class name and settings, as `print(model)` shows them.

    >>> descriptions(nn.Sequential(nn.Linear(4, 2), nn.ReLU()))
    {'': 'Sequential()', '0': 'Linear(in_features=4, out_features=2, bias=True)', '1': 'ReLU()'}
    """
    return {path: f"{type(m).__name__}({_settings(m)})" for path, m in model.named_modules()}


def _settings(module: nn.Module) -> str:
    try:
        return _ADDRESS.sub("", str(module.extra_repr()))
    except Exception:  # noqa: BLE001 (the user's code, and only its words are wanted)
        return ""


def warn_if_other(model: nn.Module, saved: Mapping[str, str]) -> None:
    """Warn if a loaded model's modules are not described as those of the saved one, naming the first that differs."""
    here = descriptions(model)
    differ = [path for path in here.keys() | saved.keys() if saved and here.get(path) != saved.get(path)]
    if differ:
        path = min(differ, key=lambda one: (len(one.split(".")), one))
        was, now = saved.get(path, "missing"), here.get(path, "missing")
        warnings.warn(
            f"{path or 'the model'} was {was[:120]} when it was saved and is {now[:120]} here. The tensors fit, and "
            "the outputs may be others. Build the model with the class and the arguments it was saved with, unless "
            "the difference is meant.",
            stacklevel=3,
        )
