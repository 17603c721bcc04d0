"""Set schedules, allocators and criteria inside a method by name.

`--method.rate asymptotic --method.rate.at 0.2`, or in a recipe `rate: {name: asymptotic, at: 0.2}`, or `rate: linear`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, fields, is_dataclass, replace
from functools import partial
from inspect import signature
from types import UnionType
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin, get_type_hints

from secateurs.errors import RecipeError, near
from secateurs.registry import kebab, make, names

if TYPE_CHECKING:
    from secateurs.allocate import Allocator

Kinds = Mapping[str, Callable[[], Any]]
"""Name -> what makes the part with its default settings."""

NONE = "none"


def allocators() -> Mapping[str, Allocator]:
    """Return allocator name -> allocator, as in --ranking."""
    from secateurs.allocate import AsIs, ByMax, BySum, Ranked, Uniform

    ranked = {"max": Ranked(ByMax()), "sum": Ranked(BySum()), "as-is": Ranked(AsIs())}
    return {"mean": Ranked(), **ranked, "uniform": Uniform()}


def kinds_of(hint: Any) -> Kinds:
    """Return the names that a field of this type accepts; empty for types without names.

    >>> from secateurs.allocate import Allocator
    >>> from secateurs.criteria import Criterion
    >>> from secateurs.session.schedule import Schedule
    >>> sorted(kinds_of(Schedule))[:3], sorted(kinds_of(Allocator))[:3], "taylor" in kinds_of(Criterion | None)
    (['asymptotic', 'constant', 'cubic'], ['as-is', 'max', 'mean'], True)
    """
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    given = [option for option in options if option is not type(None)]
    if len(given) != 1:
        return {}
    found = _kinds(given[0], optional=len(given) < len(options))
    return {**found, NONE: lambda: None} if found and len(given) < len(options) else found


def _kinds(hint: Any, *, optional: bool) -> Kinds:
    # Imported here, because help and refusals of other commands need none of it.
    from secateurs.allocate import Allocator
    from secateurs.criteria import Criterion
    from secateurs.session import schedule

    if hint == schedule.Schedule:
        return {kebab(kind.__name__): kind for kind in vars(schedule).values() if _is_schedule(kind)}
    if hint is Allocator:
        return {name: partial(_given, allocator) for name, allocator in allocators().items()}
    if hint is Criterion:
        return {name: partial(make, name) for name in names("criterion")}
    if optional and isinstance(hint, type) and is_dataclass(hint):
        return {kebab(hint.__name__): hint}
    return {}


def _given(value: Any) -> Any:
    return value


def _is_schedule(kind: Any) -> bool:
    return is_dataclass(kind) and callable(kind) and list(signature(kind.__call__).parameters)[1:] == ["t", "total"]


def parts(value: Any) -> list[tuple[Field[Any], Kinds]]:
    """Return the fields of a value that are set by name, and the names that each accepts."""
    if not is_dataclass(value):
        return []
    hints = get_type_hints(type(value))
    found = [(f, kinds_of(hints[f.name])) for f in fields(value) if f.init]
    return [(f, kinds) for f, kinds in found if kinds and name_of(kinds, getattr(value, f.name)) is not None]


def name_of(kinds: Kinds, part: Any) -> str | None:
    """Return the name of a part; None for a value without one, such as a lambda.

    >>> from secateurs.session import schedule
    >>> from secateurs.session.schedule import Schedule
    >>> name_of(kinds_of(Schedule), schedule.Asymptotic(at=0.2)), name_of(kinds_of(Schedule), lambda t, total: 1.0)
    ('asymptotic', None)
    """
    own = kebab(type(part).__name__)
    alike = {name: made for name, kind in kinds.items() if type(made := kind()) is type(part)}
    equal = [name for name, made in alike.items() if made == part]
    near_ones = [name for name, made in alike.items() if not _fixed(made, part)]
    for found in (equal, near_ones):
        if found:
            return own if own in found else found[0]
    return None


def _fixed(made: Any, part: Any) -> bool:
    """Return True if two parts of one type differ in a nested value that no flag can change."""
    if not is_dataclass(made):
        return True
    hints = get_type_hints(type(made))
    unnamed = [f.name for f in fields(made) if not kinds_of(hints[f.name]) and is_dataclass(getattr(made, f.name))]
    return any(getattr(made, name) != getattr(part, name) for name in unnamed)


def with_parts(value: Any, options: Mapping[str, Any]) -> Any:
    """Return the value with the parts named by its options, each with default settings; an equal name changes nothing.

    >>> from secateurs.methods import SFP
    >>> with_parts(SFP(), {"rate": "linear", "decay": {"name": "exponential-decay", "cut": 0.8}}).decay.cut
    0.9
    """
    for f, kinds in parts(value):
        name = _name(options.get(f.name))
        if name is None or name == name_of(kinds, getattr(value, f.name)):
            continue
        if name not in kinds:
            raise RecipeError(f"{f.name} of {type(value).__name__} cannot be {name!r}; {near(name, kinds)}")
        value = replace(value, **{f.name: kinds[name]()})
    for key, inner in options.items():
        part = getattr(value, key, None)
        if isinstance(inner, Mapping) and is_dataclass(part):
            value = replace(value, **{key: with_parts(part, inner)})
    return value


def without_names(value: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options without the names of parts, and without parts that have no other setting."""
    named = {f.name for f, _ in parts(value)}
    found: dict[str, Any] = {}
    for key, inner in options.items():
        if isinstance(inner, Mapping):
            rest = without_names(getattr(value, key, None), inner)
            rest = {word: other for word, other in rest.items() if key not in named or word != "name"}
            found |= {key: rest} if rest or key not in named else {}
        elif key not in named:
            found[key] = inner
    return found


def stated_parts(method: Any, words: Sequence[str]) -> dict[str, Any]:
    """Return the parts named by flags, as nested options.

    >>> from secateurs.methods import ASFP
    >>> stated_parts(ASFP(), ["--method.rate", "linear", "--method.decay=to-zero", "--method.every", "2"])
    {'rate': {'name': 'linear'}, 'decay': {'name': 'to-zero'}}
    """
    joined = [
        f"{word}={after}" if "=" not in word else word for word, after in zip(words, [*words[1:], ""], strict=True)
    ]
    found: dict[str, Any] = {}
    for word in joined:
        if match := re.fullmatch(r"--method\.([\w.]+?)(?:\.name)?=(.+)", word):
            path, name = match[1].split("."), match[2]
            if _is_part(with_parts(method, found), path):
                inner = found
                for step in path:
                    inner = inner.setdefault(step, {})
                inner["name"] = name
    return found


def _is_part(value: Any, path: Sequence[str]) -> bool:
    inside = value
    for step in path[:-1]:
        inside = getattr(inside, step, None)
    return path[-1] in {f.name for f, _ in parts(inside)}


def _name(stated: Any) -> str | None:
    return stated.get("name") if isinstance(stated, Mapping) else stated if isinstance(stated, str) else None
