"""A row of a paper's table as a value, read from its file in `rows/`."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Literal, final, get_args

import yaml

from secateurs.errors import InputError, RecipeError, near

if TYPE_CHECKING:
    from collections.abc import Mapping

Source = Literal["paper", "abstract", "code", "figure", "log", "quoted", "none"]
"""Source of a figure: the paper, its abstract, the authors' repository, a figure there, computed from
their log, quoted by somebody else; or nowhere."""

IMAGES = {"cifar10": 50_000, "cifar100": 50_000, "imagefolder": 1_281_167}
"""Training images of the data sets, of which rows train on nine tenths; imagefolder is ImageNet."""

PASSES = 3
"""Cost of a training step in forward passes: one forward, two backward."""


@final
@dataclass(frozen=True)
class Reported:
    """Reported results of a row in per cent, with their source; None if not available.

    base: of the dense network. macs, params, filters: the part that remains, a fraction.
    """

    source: Source
    where: str
    accuracy: float | None = None
    spread: float | None = None
    top5: float | None = None
    base: float | None = None
    macs: float | None = None
    params: float | None = None
    filters: float | None = None

    def __post_init__(self) -> None:
        """Refuse a figure without a source, and a source without a figure."""
        if self.source not in get_args(Source):
            raise InputError(f"source {self.source!r} is none of {', '.join(get_args(Source))}")
        if (self.accuracy is None) != (self.source == "none"):
            raise InputError(
                f"accuracy {self.accuracy} has the source {self.source!r}; a figure has one, no figure none"
            )

    def __str__(self) -> str:
        """Describe the accuracy, with its source.

        >>> str(Reported("quoted", "somewhere", accuracy=92.26, spread=0.31)), str(Reported("none", "not public"))
        ('92.26 ± 0.31 (quoted)', '–')
        """
        if self.accuracy is None:
            return "–"
        spread = "" if self.spread is None else f" ± {self.spread:.2f}"
        return f"{self.accuracy:.2f}{spread} ({self.source})"


@final
@dataclass(frozen=True)
class Row:
    """One experiment of a paper.

    recipe: keys of a recipe, the data without its folder. dense: exact MACs of one image and parameters of the dense
    network. weights: the published weights that it begins with; empty where it trains its own. differs: how this is not
    what the authors did. lacks: what is missing here to run it at all. quick: settings of the method that a quick run
    has in place of the row's, because they would take long.
    """

    name: str
    paper: str
    network: str
    reported: Reported
    recipe: Mapping[str, Any]
    code: str = ""
    dense: Mapping[str, int] = field(default_factory=dict[str, int])
    weights: str = ""
    differs: tuple[str, ...] = ()
    lacks: str = ""
    quick: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def data(self) -> str:
        """The kind of data, say cifar10."""
        return str(self.recipe["data"])

    @property
    def method(self) -> str:
        """The name of the method."""
        method = self.recipe["method"]
        return str(method["name"] if isinstance(method, dict) else method)

    @property
    def epochs(self) -> tuple[int, int, int]:
        """Epochs of the dense training, of the training that prunes, and after it.

        >>> find("greg1-r56").epochs
        (200, 314, 120)
        """
        train, prune, after = (int(self.recipe.get(key, 0)) for key in ("train_epochs", "prune_epochs", "epochs"))
        return train, prune, after

    @property
    def cost(self) -> float | None:
        """Upper estimate of the multiply-accumulates of all training: images · epochs · 3 · the network's.

        Every epoch counts the dense network, also after pruning.

        >>> f"{find('sfp-r56').cost:.1e}"
        '3.4e+15'
        """
        images = IMAGES.get(self.data)
        if images is None or "macs" not in self.dense:
            return None
        return 0.9 * images * sum(self.epochs) * PASSES * self.dense["macs"]


@cache
def rows() -> tuple[Row, ...]:
    """Return every row, sorted by name.

    >>> len({row.name for row in rows()}) == len(rows())
    True
    """
    folder = files("secateurs.app.experiments") / "rows"
    found = sorted((entry for entry in folder.iterdir() if entry.name.endswith(".yaml")), key=lambda entry: entry.name)
    return tuple(_row(entry.name.removesuffix(".yaml"), entry.read_text(encoding="utf-8")) for entry in found)


def find(name: str) -> Row:
    """The row called `name`; RecipeError lists near ones.

    >>> find("sfp-r55")
    Traceback (most recent call last):
    secateurs.errors.RecipeError: no row is called 'sfp-r55'; did you mean 'sfp-r56' or ...
    """
    for row in rows():
        if row.name == name:
            return row
    hint = near(name, [row.name for row in rows()]).split("Known: ")[0]
    raise RecipeError(f"no row is called {name!r}; {hint}secateurs reproduce --list shows all of them")


def _row(name: str, text: str) -> Row:
    keys: dict[str, Any] = yaml.safe_load(text)
    known = {f.name for f in fields(Row)} - {"name"}
    if unknown := keys.keys() - known:
        raise InputError(f"the row {name} has the unknown key {min(unknown)!r}; {near(min(unknown), known)}")
    keys["reported"] = Reported(**keys["reported"])
    keys["differs"] = tuple(keys.get("differs", ()))
    return Row(name, **keys)
