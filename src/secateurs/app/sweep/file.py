"""A sweep file: common settings, and trials as the product of methods, budgets and seeds."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import product
from pathlib import Path
from typing import Any, final

import yaml

from secateurs.app.choices import BUDGETS
from secateurs.errors import InputError, RecipeError, near

CONTROLS = ("random", "l2", "scratch", "dense")
LISTS = ("rows", "methods", "budgets", "seeds", "controls")


@final
@dataclass(frozen=True)
class Trial:
    """One run: the name of its folder, the keys of its recipe, the paper's row it follows, and the trial before it.

    like: the name of the trial whose size a control has; it has to be finished first.
    """

    name: str
    keys: Mapping[str, Any]
    row: str = ""
    like: str = ""


@final
@dataclass(frozen=True)
class Sweep:
    """The contents of a sweep file.

    recipe: keys that all trials share. rows: papers' rows, each with its own recipe, which these keys override.
    folders: data of rows by kind ("cifar10": path). methods, budgets, seeds: tried in all combinations; by default
    those of the recipe or row. controls: run once per budget and seed, with the size of the first method's network.
    quick: rows in minutes. cpus, gpus: of one trial, which uses as many threads as cpus.

    >>> [trial.name for trial in Sweep(methods=("l2", "taylor"), budgets=({"macs": 0.5},), seeds=(0, 1)).trials()]
    ['l2-macs0.5-seed0', 'l2-macs0.5-seed1', 'taylor-macs0.5-seed0', 'taylor-macs0.5-seed1']
    """

    recipe: Mapping[str, Any] = field(default_factory=dict[str, Any])
    rows: tuple[str, ...] = ()
    folders: Mapping[str, str] = field(default_factory=dict[str, str])
    methods: tuple[Any, ...] = ()
    budgets: tuple[Mapping[str, Any], ...] = ()
    seeds: tuple[int, ...] = (0,)
    controls: tuple[str, ...] = ()
    quick: bool = False
    cpus: int = 1
    gpus: float = 0.0

    def __post_init__(self) -> None:
        """Refuse invalid or contradictory entries."""
        if self.cpus < 1 or self.gpus < 0:
            raise InputError(f"cpus {self.cpus} and gpus {self.gpus} are those of one trial: 1 or more, and 0 or more")
        if len(set(self.seeds)) < len(self.seeds) or not self.seeds:
            raise InputError(f"seeds {list(self.seeds)} must be whole numbers, at least one and each once")
        for control in self.controls:
            if control not in CONTROLS:
                raise RecipeError(f"there is no control {control!r}; {near(control, CONTROLS)}")
        for budget in self.budgets:
            if wrong := budget.keys() - set(BUDGETS):
                raise RecipeError(f"a budget has no {min(wrong)!r}; {near(min(wrong), BUDGETS)}")

    def trials(self) -> tuple[Trial, ...]:
        """Return every trial, each before the controls of its size; names are unique."""
        found = [trial for row in self.rows or ("",) for trial in self._of(row)]
        names = [trial.name for trial in found]
        if twice := {name for name in names if names.count(name) > 1}:
            raise InputError(f"two trials would share the folder {min(twice)}; a method or budget stands there twice")
        return tuple(found)

    def _of(self, row: str) -> Iterator[Trial]:
        methods: Sequence[Any] = self.methods or (None,)
        budgets: Sequence[Mapping[str, Any]] = self.budgets or ({},)
        models: dict[tuple[int, int], str] = {}
        for method, (place, budget), seed in product(methods, enumerate(budgets), self.seeds):
            named = {} if method is None else {"method": method}
            name = _name(row, _method_words(method) or ("method" if not row else ""), budget, seed)
            models.setdefault((place, seed), name)
            yield Trial(name, {**self.recipe, **named, **budget, "seed": seed}, row)
        first = {} if self.methods == () else {"method": self.methods[0]}
        for control, (place, budget), seed in product(self.controls, enumerate(budgets), self.seeds):
            if control == "dense" and place:
                continue  # nothing is pruned, so that no budget makes a difference
            like = "" if control == "dense" else models[place, seed]
            name = _name(row, f"control-{control}", {} if control == "dense" else budget, seed)
            yield Trial(name, {**self.recipe, **first, **budget, "seed": seed, "control": control}, row, like)


def read_sweep(path: Path) -> Sweep:
    """Read a sweep file; InputError says what is wrong in it."""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as cause:
        raise InputError(f"the sweep {path} cannot be read ({cause.strerror}); name a YAML file") from cause
    except (yaml.YAMLError, UnicodeDecodeError) as cause:
        raise InputError(f"the sweep {path} is not YAML: {' '.join(str(cause).split())}") from cause
    known = {f.name for f in fields(Sweep)}
    if not isinstance(found, dict):
        raise InputError(f"the sweep {path} holds {type(found).__name__}, not keys; write, say, methods: [l2, taylor]")
    keys: dict[str, Any] = {str(key): value for key, value in found.items()}
    for key, value in keys.items():
        if key not in known:
            raise RecipeError(f"the sweep {path} has an unknown key {key!r}; {near(key, known)}")
        if key in LISTS and not isinstance(value, list):
            raise InputError(f"{key} of the sweep {path} is {value!r}, and must be a list; write {key}: [{value}]")
    recipe = {str(key).replace("-", "_"): value for key, value in dict(keys.get("recipe") or {}).items()}
    settings: dict[str, Any] = {**keys, "recipe": recipe, **{key: tuple(keys[key]) for key in LISTS if key in keys}}
    return Sweep(**settings)


def _name(row: str, method: str, budget: Mapping[str, Any], seed: int) -> str:
    parts = [row, method, *(f"{key}{value}" for key, value in budget.items()), f"seed{seed}"]
    return "-".join(part for part in parts if part)


def _method_words(method: Any) -> str:
    """Format a method and its options as part of a folder's name.

    >>> _method_words({"name": "taylor", "roles": ["out", "in"]})
    'taylor-roles-out-in'
    """
    if method is None:
        return ""
    named = dict(method) if isinstance(method, Mapping) else {"name": method}
    words = [str(named.pop("name"))] + [f"{key} {value}" for key, value in named.items()]
    return re.sub(r"[^A-Za-z0-9.]+", "-", " ".join(words)).strip("-")
