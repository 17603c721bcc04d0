"""Flags made from the fields of `Recipe` and of a method's dataclass, and what to say when a value does not fit."""

import argparse
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import Field, fields, is_dataclass
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, final, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentParser

from secateurs.app.cli.recipe import GROUPS, Recipe
from secateurs.errors import InputError, RecipeError, near

METHOD = "--method."
"""How a flag of the method's own begins."""


@final
class _Columns(argparse.HelpFormatter):
    """Two columns, no wider than reads well."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=min(110, shutil.get_terminal_size().columns))


def new_parser() -> ArgumentParser:
    """Make a parser that raises `ArgumentError` instead of exiting, and takes no abbreviated flags."""
    return ArgumentParser(
        usage=argparse.SUPPRESS,
        exit_on_error=False,
        allow_abbrev=False,
        add_help=False,
        formatter_class=_Columns,
    )


def recipe_parser(base: Recipe, only: Sequence[str] = ()) -> ArgumentParser:
    """Make the parser of the flags of a recipe, or of some; its help names the values of `base` as defaults."""
    parser, hints = new_parser(), get_type_hints(Recipe)
    run = parser.add_argument_group("run")
    run.add_argument("--out", type=Path, metavar="FOLDER", help="folder of the run; a new one")
    run.add_argument("--config", type=Path, metavar="FILE", help="recipe file, in YAML; flags win over it")
    run.add_argument("--resume", action="store_true", help="go on where an earlier start in --out was interrupted")
    run.add_argument(
        "--trust-code", action="store_true", help="run Python files that a recipe or a run folder names, unread by you"
    )
    run.add_argument("--debug", action="store_true", help="show the traceback of an error")
    for key, heading in GROUPS.items():
        chosen = [f for f in fields(Recipe) if f.metadata.get("group") == key and (not only or f.name in only)]
        group = parser.add_argument_group(heading) if chosen else None
        for f in chosen if group else ():
            _add_flag(group, f, hints[f.name], getattr(base, f.name))
    return parser


def method_parser(method: Any) -> ArgumentParser:
    """Make the parser of a method's own fields, whose defaults are those of the value given."""
    parser = new_parser()
    for f, hint in method_fields(method):
        default = getattr(method, f.name)
        parser.add_argument(
            f"{METHOD}{f.name}",
            type=hint,
            default=default,
            metavar="X",
            help=f"{_type_name(hint)} (default {'null' if default is None else default})",
        )
    return parser


def method_fields(method: Any) -> list[tuple[Field[Any], Any]]:
    """The settings of a method that can be written down, with their types; its seed is the run's."""
    if not is_dataclass(method):
        return []
    hints = get_type_hints(type(method))
    return [(f, hints[f.name]) for f in fields(method) if f.init and f.name != "seed" and _is_plain(hints[f.name])]


def parse_flags(parser: ArgumentParser, argv: Sequence[str]) -> dict[str, Any]:
    """Read flags: only those that are given come out."""
    try:
        return parser.parse_args(list(argv), defaults=False).as_dict()
    except argparse.ArgumentError as cause:
        raise _told(parser, str(cause), flag=True) from cause


def parse_keys(parser: ArgumentParser, keys: Mapping[str, Any], where: str) -> Any:
    """Read keys that stand in the file or place `where`, checked like flags."""
    try:
        return parser.parse_object(dict(keys), defaults=False)
    except argparse.ArgumentError as cause:
        raise _told(parser, str(cause), flag=False, where=where) from cause


def _told(parser: ArgumentParser, message: str, *, flag: bool, where: str = "") -> InputError:
    """Tell in one sentence what jsonargparse refused."""
    known = {option: action for action in parser._actions for option in action.option_strings}  # noqa: SLF001
    text = " ".join(message.split())
    unknown = re.match(r"unrecognized arguments: (\S+)", text)
    if unknown and unknown[1].startswith("-"):
        option = unknown[1].partition("=")[0]
        return RecipeError(f"there is no flag {option}; {near(option, known)}")
    if unknown:
        return RecipeError(f"{unknown[1]!r} belongs to no flag; write --FLAG VALUE, for example --macs 0.5")
    value = re.search(r'Parser key "([^"]+)": .*(?:Got value|Given value): (.*)$', text)
    if not value:
        return InputError(text)
    key = value[1]
    action = known.get(f"--{key.replace('_', '-')}") or known.get(f"--{key}")
    takes = _type_name(getattr(action, "_typehint", None) or str)
    subject = f"--{key.replace('_', '-')}" if flag else f"{key} of {where}"
    return InputError(f"{subject} takes {takes}, not {value[2]!r}")


def _add_flag(group: Any, f: Field[Any], hint: Any, value: Any) -> None:
    flag = f"--{f.name.replace('_', '-')}"
    if f.name == "protect":
        group.add_argument(flag, nargs="+", type=str, default=[], metavar=f.metadata["shown"], help=f.metadata["help"])
        return
    default = "" if value is None else f" (default {value})"
    shown = {"metavar": f.metadata["shown"]} if f.metadata["shown"] else {}
    group.add_argument(flag, type=hint, default=value, help=f.metadata["help"] + default, **shown)


WORDS = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    Path: "a path",
    type(None): "null",
}


def _is_plain(hint: Any) -> bool:
    """Whether values of a type can be written in a file: no function, no object with a life of its own.

    >>> _is_plain(tuple[tuple[str, float], ...] | None), _is_plain(Sequence[Recipe])
    (True, False)
    """
    if isinstance(hint, type) and get_origin(hint) is None:
        return hint in WORDS or issubclass(hint, Enum)
    parts = [part for part in get_args(hint) if part is not Ellipsis]
    plain = get_origin(hint) in (tuple, Union, UnionType) and all(map(_is_plain, parts))
    return plain or get_origin(hint) is Literal


def _type_name(hint: Any) -> str:
    """Say a plain type in words.

    >>> _type_name(float | None), _type_name(Literal["a", "b"]), _type_name(tuple[str, ...])
    ('a number or null', 'a or b', 'a list of text')
    """
    if isinstance(hint, type) and get_origin(hint) is None:
        return " or ".join(hint.__members__) if issubclass(hint, Enum) else WORDS.get(hint, hint.__name__)
    if get_origin(hint) is Literal:
        return " or ".join(map(str, get_args(hint)))
    parts = [_type_name(part) for part in get_args(hint) if part is not Ellipsis]
    if get_origin(hint) is tuple:
        return f"a list of {', '.join(parts)}"
    return " or ".join(parts)
