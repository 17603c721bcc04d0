"""Write the command of a recipe, without folders of the machine it ran on."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import fields
from pathlib import PurePath
from typing import Any

from secateurs.app.cli.recipe import Recipe
from secateurs.app.cli.where import Where
from secateurs.registry import make


def command(keys: Mapping[str, Any], *, seed: str = "") -> str:
    """Write a recipe as flags: those that differ from the defaults, files by their names alone.

    >>> command({"model": "resnet56", "data": "cifar10:/home/me/data", "macs": 0.5, "method": {"name": "l2", "p": 2}})
    'secateurs prune --model resnet56 --data cifar10:FOLDER --method l2 --macs 0.5 --out FOLDER'
    """
    words = ["secateurs", "prune"]
    where = {f.name for f in fields(Where)}
    for f in sorted(fields(Recipe), key=lambda f: f.name in where):
        if f.name == "method":
            words += _method(keys.get("method", Recipe.method))
        elif f.name == "seed" and seed:
            words += ["--seed", seed]
        elif f.name in keys and _plain(keys[f.name]) != _plain(getattr(Recipe(), f.name)):
            words += [f"--{f.name.replace('_', '-')}", *_words(f.name, keys[f.name])]
    return shlex.join([*words, "--out", "FOLDER"])


def _method(method: Any) -> list[str]:
    """Return the method's name, and its options that differ from the defaults."""
    if not isinstance(method, Mapping):
        return [] if method == Recipe.method else ["--method", str(method)]
    name = str(method["name"])
    usual = {} if name.rpartition(":")[0].endswith(".py") else make(name)
    words = ["--method", _name(name)]
    for key, value in method.items():
        if key != "name" and _plain(value) != _plain(getattr(usual, key, None)):
            words += [f"--method.{key}", _written(value)]
    return words


def _words(field: str, value: Any) -> list[str]:
    if field == "protect":
        return [str(one) for one in value]
    if field == "data" and not str(value).startswith("digits"):
        return [f"{str(value).partition(':')[0]}:FOLDER"]
    return [_name(_written(value)) if field in ("weights", "model", "plan") else _written(value)]


def _name(text: str) -> str:
    """A path without its folders; anything else as it is."""
    return PurePath(text).name if "/" in text else text


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(_written(one) for one in value) + "]"
    return str(value)


def _plain(value: Any) -> Any:
    return [_plain(one) for one in value] if isinstance(value, (list, tuple)) else value
