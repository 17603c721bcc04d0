"""The settings of a method as flags and as keys of a recipe, for fields of plain types."""

import re
import sys
from collections.abc import Mapping
from dataclasses import Field, fields, is_dataclass, replace
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentParser

from secateurs.app.cli.flags import WORDS, new_parser, parse_keys
from secateurs.errors import RecipeError, near

METHOD = "--method."
"""Prefix of the flags for a method's own settings."""


def add_method(group: Any, method: Any, prefix: str = METHOD) -> None:
    """Add a flag for each setting of a method to a parser or a group; nested settings get dotted names."""
    meanings = meanings_of(type(method))
    for f, hint in method_fields(method):
        value, flag = getattr(method, f.name), f"{prefix}{f.name}"
        if is_dataclass(hint):
            add_method(group, value, f"{flag}.")
        else:
            shown = _metavar(hint)
            group.add_argument(flag, type=hint, default=value, help=meanings.get(f.name, ""), **shown)


def _metavar(hint: Any) -> dict[str, str]:
    """Return the placeholder; none for choices, which the parser lists itself."""
    return (
        {} if get_origin(hint) is Literal or (isinstance(hint, type) and issubclass(hint, Enum)) else {"metavar": "X"}
    )


def method_parser(method: Any) -> ArgumentParser:
    """Make the parser of a method's own settings, whose defaults are those of the value given."""
    parser = new_parser()
    add_method(parser, method)
    return parser


def method_fields(method: Any) -> list[tuple[Field[Any], Any]]:
    """Return the settings of a method that can be written in a file, with types; not its seed, which is the run's.

    If a field could have several types, such as a penalty, the type of its value is used.
    """
    if not is_dataclass(method):
        return []
    hints = get_type_hints(type(method))
    typed = [(f, _part(hints[f.name], getattr(method, f.name))) for f in fields(method) if f.init and f.name != "seed"]
    return [(f, hint) for f, hint in typed if is_plain(hint)]


def _part(hint: Any, value: Any) -> Any:
    """Return the type of a field, or of its value if that is a dataclass and the annotation is more general."""
    kind = cast("type[Any]", type(value))
    return kind if not is_plain(hint) and is_dataclass(kind) and fields(kind) else hint


def is_plain(hint: Any) -> bool:
    """True if values of a type can be written in a file: numbers, text, and containers or dataclasses of these.

    >>> is_plain(tuple[tuple[str, float], ...] | None), is_plain(Mapping[str, float]), is_plain(Mapping[str, object])
    (True, True, False)
    """
    if isinstance(hint, type) and get_origin(hint) is None:
        if is_dataclass(hint):
            hints = get_type_hints(hint)
            return all(is_plain(hints[f.name]) for f in fields(hint) if f.init)
        return hint in WORDS or issubclass(hint, Enum)
    parts = [part for part in get_args(hint) if part is not Ellipsis]
    plain = get_origin(hint) in (tuple, Union, UnionType, Mapping) and all(map(is_plain, parts))
    return plain or get_origin(hint) is Literal


def with_options(method: Any, options: Mapping[str, Any], name: str) -> Any:
    """Return the method with these settings, each checked; `name`: of the method, for messages.

    Raises RecipeError for unknown settings, also with the new name of one that was renamed.
    """
    known = [f.name for f, _ in method_fields(method)]
    for option in options:
        if new := getattr(method, "renamed", {}).get(option):
            raise RecipeError(f"the option {option!r} of the method {name} is called {new!r} now; write {new}: VALUE")
        if option not in known:
            raise RecipeError(f"the method {name} has no option {option!r}; {near(option, known)}")
    if not options:
        return method
    parser = method_parser(method)
    made = parser.instantiate(parse_keys(parser, {"method": _nested(options)}, name))
    return _replaced(method, made["method"])


def _nested(options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: dict(value) if isinstance(value, Mapping) else value for key, value in options.items()}


def _replaced(value: Any, found: Any) -> Any:
    """Return the value with these fields replaced, also in nested values."""
    inside = {f.name for f, hint in method_fields(value) if is_dataclass(hint)}
    given = {
        name: _replaced(getattr(value, name), part) if name in inside else part for name, part in vars(found).items()
    }
    return replace(value, **given)


def options_of(method: Any) -> dict[str, Any]:
    """Return the settings of a method for a recipe file: lists for tuples, names for members of an enumeration."""
    return {f.name: _written(getattr(method, f.name)) for f, _ in method_fields(method)}


def _written(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, Path):
        return str(value)
    if is_dataclass(value):
        return options_of(value)
    if isinstance(value, Mapping):
        return {str(key): _written(part) for key, part in cast("Mapping[Any, Any]", value).items()}
    return [_written(part) for part in value] if isinstance(value, tuple) else value


def meanings_of(kind: type) -> dict[str, str]:
    r"""Meaning of each field of a class, from its docstring.

    The meaning is the text after the field's name and a colon, or else the first sentence with the name in backticks.
    If there is none, docstrings of base classes and of other dataclasses of the module are used.

    >>> from secateurs.methods import GReg1
    >>> meanings_of(GReg1)["scope"]
    '"uncoupled" keeps the paper\'s layers, groups with one producer'
    """
    relatives = [c for c in vars(sys.modules[kind.__module__]).values() if isinstance(c, type) and is_dataclass(c)]
    own = {f.name for f in fields(kind)} if is_dataclass(kind) else set[str]()
    found: dict[str, str] = {}
    for one in (*relatives, *reversed(kind.__mro__)):
        found |= _meanings(one)
    return {name: meaning for name, meaning in found.items() if name in own}


def _meanings(kind: type) -> dict[str, str]:
    """Meanings of fields in the docstring of this one class."""
    text = " ".join((vars(kind).get("__doc__") or "").partition(">>>")[0].split())
    names = [f.name for f in fields(kind)] if is_dataclass(kind) else []
    start = rf"(?<![\w.`])({'|'.join(map(re.escape, names))})(?:: | = )" if names else r"(?!)"
    places = list(re.finditer(start, text))
    ends = [*(place.start() for place in places[1:]), len(text)]
    sentences = re.split(r"(?<=[.;:])\s+", text)
    found = {n: s.strip(" .;:,") for n in names for s in reversed(sentences) if f"`{n}`" in s}
    return found | {f[1]: _first_sentence(text[f.end() : end]) for f, end in zip(places, ends, strict=False)}


def _first_sentence(text: str) -> str:
    """Return the text before the first full stop that ends a sentence.

    >>> _first_sentence("of 0.5, e.g. so. The rest of it.")
    'of 0.5, e.g. so'
    """
    return re.split(r"\.\s+(?=[A-Z`Σ])|\.\s*$", text.strip(), maxsplit=1)[0]
