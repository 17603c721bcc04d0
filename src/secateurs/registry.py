"""Criteria and methods by name, found from the packages that hold them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from secateurs import criteria
from secateurs.criteria import BatchNormScale, Criterion, GeometricMedian, Magnitude, Random
from secateurs.errors import RecipeError, near

if TYPE_CHECKING:
    from secateurs.methods.one_shot import Method


SHORT: Mapping[str, Callable[[], Any]] = {
    "l1": Magnitude,
    "l2": lambda: Magnitude(p=2),
    "bn-scale": BatchNormScale,
    "fpgm": GeometricMedian,
}
"""The names under which papers and other libraries know some criteria."""


def kebab(name: str) -> str:
    """Write a class name as it is written on the command line.

    >>> [kebab(name) for name in ("Magnitude", "GroupFisher", "GReg1", "FOAD", "BatchNormScale", "EPruner")]
    ['magnitude', 'group-fisher', 'greg1', 'foad', 'batch-norm-scale', 'epruner']
    """
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z]{2})(?=[A-Z][a-z])", "-", name).lower()


def registry() -> dict[str, Callable[[], Any]]:
    """Give every name -> what makes the value with its default settings: all criteria and all methods."""
    modules = (criteria, import_module("secateurs.methods"))
    classes = [getattr(module, name) for module in modules for name in getattr(module, "__all__", ())]
    made = {kebab(c.__name__): c for c in classes if isinstance(c, type) and is_dataclass(c)}
    return {**made, **SHORT}


def resolve(method: object, seed: int = 0) -> Criterion | Method:
    """Give the criterion or one-shot method that a name or a value means.

    >>> resolve("l2")
    Magnitude(p=2, roles=None)
    """
    from secateurs.methods.one_shot import Method

    value = by_name(method, seed) if isinstance(method, str) else method
    if isinstance(value, type):
        message = f"{value.__name__} is a class, not a method with its settings. Write {value.__name__}()."
        raise RecipeError(message)
    if isinstance(value, Method | Criterion):
        return value
    if is_dataclass(value):
        message = (
            f"{type(value).__name__} does not choose in one shot: it prunes while the model trains. "
            "Drive it from your training loop with secateurs.Session(model, example_inputs, method=..., budget=...)."
        )
        raise RecipeError(message)
    message = f"{value!r} is no method. Pass a method, a criterion, or a name: {', '.join(sorted(registry()))}."
    raise RecipeError(message)


def by_name(name: str, seed: int = 0) -> object:
    """Make the criterion or method of a name, with its default settings."""
    known = registry()
    if name not in known:
        message = f"no method or criterion is called {name!r}: {near(name, known)}"
        raise RecipeError(message)
    return Random(seed) if known[name] is Random else known[name]()
