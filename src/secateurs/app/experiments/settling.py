"""Turn a row into the recipe of one run, with data, weights and seed, or say why that is impossible."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, final

from secateurs.app import data, models
from secateurs.app.cli.arguments import compose
from secateurs.app.cli.recipe import Control, Recipe
from secateurs.app.experiments.quick import quick
from secateurs.app.experiments.row import Row
from secateurs.errors import InputError
from secateurs.registry import entries


@final
@dataclass(frozen=True)
class Order:
    """Choices for one run of a row. root: folder of its data. like: a finished run, for a control of the same size."""

    seed: int = 0
    quick: bool = False
    root: Path | None = None
    weights: str | None = None
    control: Control = "none"
    like: Path | None = None


def recipe_of(row: Row, order: Order) -> Recipe:
    """Return the recipe of a run; InputError says what is missing, and how to get it."""
    if reason := unavailable(row):
        raise InputError(f"the row {row.name} cannot be run: {reason}")
    base = _composed(row, row.quick if order.quick else {})
    if order.root is None and not order.quick:
        raise InputError(f"the row {row.name} needs {row.data}; name the folder that holds it: --data FOLDER")
    named = row.data if order.root is None else f"{row.data}:{order.root}"
    # A quick run trains its own, and downloads nothing.
    weights = order.weights or (None if order.quick else row.weights or None)
    recipe = replace(base, label=row.name, seed=order.seed, data=named, weights=weights)
    if order.weights is not None:
        recipe = replace(recipe, train_epochs=0, train_schedule=None, train_milestones=())
    recipe = quick(recipe, stand_in=order.root is None) if order.quick else recipe
    return replace(recipe, control=order.control, like=order.like)


def unavailable(row: Row) -> str:
    """Return the reason why this version cannot run a row; empty if it can."""
    if row.lacks:
        return f"it lacks {row.lacks}"
    known = {f.name for f in fields(Recipe)}
    if unknown := [key for key in row.recipe if key not in known]:
        return f"it needs the recipe key {unknown[0]}, which this version does not have"
    if row.data not in {name.partition(":")[0] for name in data.NAMES}:
        return f"it needs the data {row.data}, which this version does not read"
    if row.method not in entries():
        return f"it needs the method {row.method}, which this version does not have"
    try:
        models.check_name(str(row.recipe["model"]))
        _composed(row)
    except InputError as cause:
        return str(cause)
    return ""


def _composed(row: Row, shorter: Mapping[str, Any] | None = None) -> Recipe:
    """The row's own keys as a recipe, without data and weights; `shorter`: settings of its method that are others."""
    keys: dict[str, Any] = dict(row.recipe)
    method: Any = keys.pop("method")
    options = dict(method) if isinstance(method, Mapping) else {"name": method}
    options |= dict(shorter or {})
    keys |= {"method": options.pop("name"), "options": options}
    return compose(Recipe(), keys)
