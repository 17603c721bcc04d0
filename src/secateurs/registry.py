"""Methods and criteria by name: the library's own, those registered by a program, and those of installed packages.

    @register
    @dataclass(frozen=True)
    class NuclearNorm: ...                    # now "nuclear-norm", in prune, plan, Session and on the command line

An installed package registers its own by an entry point in its pyproject.toml, without being imported first:

    [project.entry-points."secateurs.criteria"]
    nuclear-norm = "my_package:NuclearNorm"

(`secateurs.methods` for methods). It is loaded when its name is used; if it cannot be loaded, the error names it and
its package, and all others work.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache, lru_cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from inspect import Parameter, getdoc, isfunction, signature
from typing import Any, Literal, TypeVar, overload

from secateurs.errors import InputError, RecipeError, near

T = TypeVar("T")
Kind = Literal["criterion", "one-shot", "training"]
"""Kind of a registered name: a criterion, a one-shot method, or a method that prunes while the network trains."""

ENTRY_POINTS = ("secateurs.criteria", "secateurs.methods")
"""Groups of entry points; the library's own packages have the same names."""

ALIASES: Mapping[str, str] = {
    "l1": "magnitude",
    "bn-scale": "batch-norm-scale",
    "fpgm": "geometric-median",
    "depgraph": "dep-graph",
    "orthoreg": "ortho-reg",
    "increg": "inc-reg",
    "grasp": "gra-sp",
}
"""Alternative spelling, as in papers and other libraries -> name."""


@dataclass(frozen=True)
class Entry:
    """A registered name, its source, and a function that loads it."""

    name: str
    source: str
    load: Callable[[], Any]

    def make(self, seed: int = 0) -> Any:
        """Return the value with its default settings; a field called `seed` is given the run's seed.

        RecipeError if it cannot be loaded or made, with the package that it is from.
        """
        try:
            thing = self.load()
            value = thing() if isinstance(thing, type) or isfunction(thing) else thing
        except RecipeError:
            raise
        except Exception as cause:
            message = (
                f"{self.name!r} of {self.source} cannot be loaded ({type(cause).__name__}: {cause}). "
                "Every other method works. Update or uninstall what it comes from."
            )
            raise RecipeError(message) from cause
        if kind_of(value) is None:
            message = (
                f"{self.name!r} of {self.source} is {value!r}, which is neither a criterion nor a method. A criterion "
                "has needs and is called with (group, evidence); a method has select(...) or start(run)."
            )
            raise RecipeError(message)
        return _seeded(value, seed)


_registered: dict[str, tuple[Any, Entry]] = {}


@overload
def register(thing: T, /, *, name: str | None = None, aliases: Sequence[str] = ()) -> T: ...
@overload
def register(*, name: str | None = None, aliases: Sequence[str] = ()) -> Callable[[T], T]: ...
def register(thing: Any = None, /, *, name: str | None = None, aliases: Sequence[str] = ()) -> Any:
    """Give a criterion or method a name, by which `prune`, `plan`, `Session` and the command line find it.

    thing: a class, a function without arguments that returns a value, or a value with its settings. name: in lower
    case, with hyphens; that of the class by default. aliases: further names. It returns `thing`, and so is a decorator
    too, with or without arguments. A name that is taken is refused with InputError; the same class may be registered
    again (a notebook cell that is run twice).

    >>> from secateurs.criteria import Magnitude
    >>> register(Magnitude(p=2, roles=("out",)), name="filter-norm")
    Magnitude(p=2, roles=('out',))
    >>> make("filter-norm").p
    2
    >>> register(Magnitude(), name="l2")
    Traceback (most recent call last):
    secateurs.errors.InputError: 'l2' is taken by secateurs. A name means one thing. Register it under another name.
    """
    if thing is None:
        return lambda late: register(late, name=name, aliases=aliases)
    called = (name or kebab(getattr(thing, "__name__", "")), *aliases)
    for one in called:
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", one):
            message = f"{one!r} is no name for {thing!r}. Names are lower-case words and numbers, joined by hyphens."
            raise InputError(message)
        _check_free(one, thing)
    entry = Entry(called[0], f"the module {_module(thing)}", lambda: thing)
    _registered.update(dict.fromkeys(called, (thing, entry)))
    return thing


def names(kind: Kind | None = None) -> tuple[str, ...]:
    """Return every name, in order; of one kind only, those that can be loaded.

    >>> {"l2", "taylor", "fpgm"} <= set(names("criterion")), "greg1" in names("training")
    (True, True)
    """
    return tuple(sorted(name for name, entry in entries().items() if kind is None or _kind(entry) == kind))


def _kind(entry: Entry) -> Kind | None:
    """Return the kind of an entry; None if it cannot be loaded (`make` raises the reason)."""
    try:
        return kind_of(entry.make())
    except RecipeError:
        return None


def make(name: str, *, seed: int = 0) -> Any:
    """Return the criterion or method `name`, or preset `name:preset`, with this `seed`; RecipeError if unknown.

    >>> make("l2")
    Magnitude(p=2, roles=None)
    >>> make("random", seed=7)
    Random(seed=7)
    >>> make("epruner:resnet56").beta
    0.76
    >>> make("l3")
    Traceback (most recent call last):
    secateurs.errors.RecipeError: no method or criterion is called 'l3': did you mean 'l2' or 'l1'? Known: ...
    """
    name, colon, preset = name.partition(":")
    known = entries()
    if name not in known:
        raise RecipeError(f"no method or criterion is called {name!r}: {near(name, known)}")
    value = known[name].make(seed)
    if colon and not hasattr(type(value), "preset"):
        message = f"{name!r} has no presets, and {preset!r} was asked for. Leave :{preset} out."
        raise RecipeError(message)
    return _seeded(type(value).preset(preset), seed) if colon else value


def _seeded(value: Any, seed: int) -> Any:
    """Return the value with this seed, if it has a field `seed`."""
    takes = is_dataclass(value) and any(f.name == "seed" and f.init for f in fields(value))
    return replace(value, seed=seed) if takes else value  # pyright: ignore[reportArgumentType]


def value_of(method: object, *, seed: int = 0) -> Any:
    """Return the value that a name stands for, or the value itself; a class instead of an instance is refused."""
    if isinstance(method, type):
        message = f"{method.__name__} is a class, not a method with its settings. Write {method.__name__}()."
        raise RecipeError(message)
    return make(method, seed=seed) if isinstance(method, str) else method


def kind_of(value: object) -> Kind | None:
    """Return the kind of a value or class by its members; None if it is neither a criterion nor a method.

    >>> from secateurs import criteria, methods
    >>> kind_of(criteria.Taylor()), kind_of(methods.FOAD()), kind_of(methods.GReg1()), kind_of(3)
    ('criterion', 'one-shot', 'training', None)
    """
    own = value if isinstance(value, type) else type(value)
    if callable(getattr(value, "start", None)):
        return "training"
    if callable(getattr(value, "select", None)):
        return "one-shot"
    called = any("__call__" in vars(base) for base in own.__mro__)
    return "criterion" if called and hasattr(value, "needs") else None


def summary(value: object) -> str:
    """Return the first sentence of a value's documentation.

    >>> summary(make("l2"))
    'The p-norm of all parameters that are removed with the unit.'
    """
    text = " ".join((getdoc(type(value)) or "").partition("\n\n")[0].split())
    return re.split(r"(?<=[^A-Z]\.)\s+(?=[A-Z`])", text, maxsplit=1)[0]


def kebab(name: str) -> str:
    """Write a class name as it is written on the command line.

    >>> [kebab(name) for name in ("Magnitude", "GroupFisher", "GReg1", "FOAD", "BatchNormScale", "EPruner")]
    ['magnitude', 'group-fisher', 'greg1', 'foad', 'batch-norm-scale', 'epruner']
    """
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z]{2})(?=[A-Z][a-z])", "-", name).lower()


def entries() -> dict[str, Entry]:
    """Return every name with its entry; aliases share an entry, and no other package is imported.

    Warns of an installed package that uses a name of the library, which keeps its meaning.
    """
    own = _shipped()
    known = {**own, **{alias: own[name] for alias, name in ALIASES.items() if name in own}}
    known |= {name: entry for name, (_, entry) in _registered.items()}
    for name, points in _installed(tuple(sys.path)).items():
        if name in _registered:
            continue
        if name in known:
            message = f"{_packages(points)} calls something {name!r}. That is a name of secateurs, whose own is used."
            warnings.warn(message, stacklevel=2)
        else:
            known[name] = Entry(name, _packages(points), _loader(name, points))
    return known


@cache
def _shipped() -> dict[str, Entry]:
    """Return the library's own entries: every public class, value or function that yields a criterion or method."""
    found: dict[str, Entry] = {}
    for package in ENTRY_POINTS:
        module = import_module(package)
        for public in module.__all__:
            thing = getattr(module, public)
            if (is_dataclass(thing) or isfunction(thing)) and _is_complete(thing):
                found[kebab(public)] = _own(kebab(public), thing)
    magnitude = import_module("secateurs.criteria").Magnitude
    return {**found, "l2": _own("l2", magnitude(p=2))}


def _own(name: str, thing: Any) -> Entry:
    return Entry(name, "secateurs", lambda: thing)


def _is_complete(thing: Any) -> bool:
    """True if a thing is a value, or can be called without arguments to make one."""
    if isinstance(thing, type) and kind_of(thing) is None:
        return False
    if not (isinstance(thing, type) or isfunction(thing)):
        return True
    given = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    return all(p.default is not Parameter.empty or p.kind in given for p in signature(thing).parameters.values())


@lru_cache(maxsize=1)
def _installed(paths: tuple[str, ...]) -> dict[str, list[EntryPoint]]:
    """Return the entry points of installed packages by name; `paths` (of sys.path) is the key of the cache."""
    found: dict[str, dict[str, EntryPoint]] = {}
    for group in ENTRY_POINTS:
        for point in entry_points(group=group):
            found.setdefault(point.name, {})[point.value] = point
    return {name: list(points.values()) for name, points in found.items()}


def _loader(name: str, points: Sequence[EntryPoint]) -> Callable[[], Any]:
    def load() -> Any:
        if len(points) > 1:
            message = f"{name!r} is a name of {_packages(points)}. A name means one thing. Uninstall all but one."
            raise RecipeError(message)
        return points[0].load()

    return load


def _packages(points: Sequence[EntryPoint]) -> str:
    return " and ".join(f"the package {p.dist.name if p.dist else p.value}" for p in points)


def _check_free(name: str, thing: Any) -> None:
    """Refuse a name that is already taken."""
    holder, _ = _registered.get(name, (thing, None))
    same = holder is thing or ((isfunction(thing) or isinstance(thing, type)) and _place(holder) == _place(thing))
    by = None if same else f"{holder!r}"
    by = "secateurs" if name in ALIASES or name in _shipped() else by
    root = _module(thing).partition(".")[0]
    others = [p for p in _installed(tuple(sys.path)).get(name, ()) if p.module.partition(".")[0] != root]
    by = by or (_packages(others) if others else None)
    if by:
        message = f"{name!r} is taken by {by}. A name means one thing. Register it under another name."
        raise InputError(message)


def _module(thing: Any) -> str:
    return str(getattr(thing, "__module__", type(thing).__module__))


def _place(thing: Any) -> tuple[str, str]:
    return _module(thing), str(getattr(thing, "__qualname__", ""))
