"""Make flags from the fields of a dataclass, and turn parser errors into one sentence.

@dataclass(frozen=True)
class Comparison:
    run: Path = setting("folder of a run", "RUN")                 # no default: an argument without a flag
    json: bool = setting("as JSON", default=False)                # a switch: --json
    batch_size: int = setting("images in a batch", "N", default=8)  # --batch-size N
"""

import argparse
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, field, fields
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, final, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentParser, DefaultHelpFormatter
from typing_extensions import override

from secateurs.errors import InputError, RecipeError, near

Read = Callable[[Any], Any]
MOST = 12
"""Most known flags that a message lists for a wrong name."""


def about(group: str, meaning: str, shown: str = "", *, read: Read | None = None) -> dict[str, Any]:
    """Metadata of a field for the help: its section, its meaning, and the placeholder of its value.

    read: function from text to value, if the type alone is not enough.
    """
    return {"group": group, "help": meaning, "shown": shown, "read": read}


def setting(
    meaning: str,
    shown: str = "",
    *,
    default: Any = MISSING,
    group: str = "flags",
    read: Read | None = None,
    argument: bool = False,
) -> Any:
    """Make a field of a command's dataclass; without a default it is an argument that has to be given.

    argument: a positional argument that may be omitted. A tuple without a default takes one or more values.
    """
    told = about(group, meaning, shown, read=read)
    return field(default=default, metadata={**told, "switch": default is False, "argument": argument})


@final
class _Help(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """jsonargparse's help with limited width, and with types only for the methods' flags."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=min(110, shutil.get_terminal_size().columns))

    @override
    def _get_help_string(self, action: argparse.Action) -> str:
        """Return the default help text, without empty defaults."""
        text = super()._get_help_string(action)
        silent = action.default in (None, False, [], "") or action.required
        return (
            re.sub(r" \((?:required|default: %\(default\)s)\)$|, default: %\(default\)s(?=\)$)", "", text)
            if silent
            else text
        )

    @override
    def _get_type_str(self, action: argparse.Action) -> str | None:
        """Return the type for flags of methods only; other flags describe theirs in the text."""
        shown = any(option.startswith("--method.") and option != "--method.name" for option in action.option_strings)
        return super()._get_type_str(action) if shown else None

    @override
    def _format_action_invocation(self, action: argparse.Action) -> str:
        return super()._format_action_invocation(action).replace("--method.name", "--method")


def new_parser(description: str = "", epilog: str = "") -> ArgumentParser:
    """Make a parser that raises `ArgumentError` instead of exiting, and takes no abbreviated flags."""
    return ArgumentParser(
        description=description or None,
        epilog=epilog or None,
        exit_on_error=False,
        allow_abbrev=False,
        formatter_class=_Help,
    )


def add_fields(
    parser: ArgumentParser,
    kind: type,
    base: Any = None,
    *,
    only: Sequence[str] = (),
    headings: Mapping[str, str] | None = None,
) -> None:
    """Add a flag for each field of a dataclass, or for some, in groups; `base` holds the defaults that are shown."""
    hints = get_type_hints(kind)
    chosen = [f for f in fields(kind) if f.metadata.get("help") and (not only or f.name in only)]
    present = dict.fromkeys(f.metadata["group"] for f in chosen)
    for key in sorted(present, key=list(headings).index) if headings else present:
        group = parser.add_argument_group((headings or {}).get(key, key))
        for f in chosen:
            if f.metadata["group"] == key:
                _add_flag(group, f, hints[f.name], f.default if base is None else getattr(base, f.name))


def _add_flag(group: Any, f: Field[Any], hint: Any, default: Any) -> None:
    shown = {"metavar": f.metadata["shown"]} if f.metadata["shown"] else {}
    given: dict[str, Any] = {"help": f.metadata["help"], **shown}
    if default is MISSING or f.metadata.get("argument"):
        several = get_origin(hint) is tuple
        number = {"nargs": "+"} if several else {} if default is MISSING else {"nargs": "?"}
        one = get_args(hint)[0] if several else hint
        group.add_argument(f.name, type=f.metadata["read"] or one, **number, **given)
        return
    flag = "--method.name" if f.name == "method" else f"--{f.name.replace('_', '-')}"
    if f.metadata.get("switch"):
        group.add_argument(flag, action="store_true", **given)
    elif hint is bool:
        group.add_argument(flag, type=bool, nargs="?", const=True, default=default, **given)
    elif hint == tuple[str, ...]:
        group.add_argument(flag, nargs="+", type=str, default=list(default or ()), **given)
    else:
        group.add_argument(flag, type=f.metadata["read"] or hint, default=default, **given)


def parse_flags(parser: ArgumentParser, argv: Sequence[str], command: ArgumentParser | None = None) -> dict[str, Any]:
    """Parse flags; return only those that were given. command: the parser of the command in `argv`."""
    spoken = command or parser
    argv = [re.sub(r"^--method(?==|$)", "--method.name", word) for word in argv]
    for word in argv:
        option = word.partition("=")[0]
        if option.startswith("--method.") and option not in _actions(spoken):
            raise RecipeError(_unknown(spoken, option))
    try:
        return parser.parse_args(argv, defaults=False).as_dict()
    except (argparse.ArgumentError, KeyError) as cause:
        raise told(spoken, str(cause)) from cause


def parse_keys(parser: ArgumentParser, keys: Mapping[str, Any], where: str) -> Any:
    """Read the keys of the file `where`, checked like flags."""
    try:
        return parser.parse_object(dict(keys), defaults=False)
    except argparse.ArgumentError as cause:
        raise told(parser, str(cause), where) from cause


def told(parser: ArgumentParser, message: str, where: str = "") -> InputError:
    """Turn an error of jsonargparse into one sentence, about the command line or the file `where`."""
    text = " ".join(message.split()).strip('"')
    unknown = re.match(r"unrecognized arguments: (\S+)", text)
    if unknown and unknown[1].startswith("-"):
        return RecipeError(_unknown(parser, unknown[1].partition("=")[0]))
    if unknown:
        return RecipeError(f"{unknown[1]!r} belongs to no flag; write --FLAG VALUE, for example --macs 0.5")
    if missing := re.search(r"arguments are required: ([\w.]+)", text):
        action = next(a for a in parser._actions if a.dest == missing[1].rpartition(".")[2])  # noqa: SLF001
        meaning = (action.help or action.dest).partition(" (")[0]
        return InputError(f"name {meaning} first: {parser.usage}")
    found = re.search(r'(?:Parser key "([^"]+)"|argument (\S+?)): (.*)$', text)
    if not found:
        return InputError(text)
    key, reason = (found[1] or found[2]).lstrip("-").replace("-", "_"), found[3]
    subject = f"{key} of {where}" if where else f"--{key.replace('_', '-') if '.' not in key else key}"
    if reason.startswith("takes "):
        return InputError(f"{subject} {reason}")
    takes = type_words(_hint(parser, key))
    value = re.search(r"(?:Got value|Given value): (.*)$", reason)
    return InputError(f"{subject} takes {takes}, not {value[1]!r}" if value else f"{subject} takes {takes}: {reason}")


def _actions(parser: ArgumentParser) -> dict[str, argparse.Action]:
    return {option: action for action in parser._actions for option in action.option_strings}  # noqa: SLF001


def _unknown(parser: ArgumentParser, option: str) -> str:
    known = [one.replace("--method.name", "--method") for one in _actions(parser)]
    close, _, every = near(option, known).partition("Known: ")
    hint = f"{close}--help explains all" if len(known) > MOST else f"{close}Known: {every}"
    return f"there is no flag {option}; {hint}"


def _hint(parser: ArgumentParser, key: str) -> Any:
    action = next((a for a in parser._actions if a.dest == key), None)  # noqa: SLF001
    return getattr(action, "_typehint", None) or getattr(action, "type", None) or str


WORDS = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    Path: "a path",
    type(None): "null",
}


def type_words(hint: Any) -> str:
    """Describe a plain type in words.

    >>> type_words(float | None), type_words(Literal["a", "b"]), type_words(tuple[str, ...])
    ('a number or null', 'a or b', 'a list of text')
    """
    if isinstance(hint, type) and get_origin(hint) is None:
        return " or ".join(hint.__members__) if issubclass(hint, Enum) else WORDS.get(hint, hint.__name__)
    if get_origin(hint) is Literal:
        return " or ".join(map(str, get_args(hint)))
    parts = list(_words(hint))
    if get_origin(hint) is tuple:
        return f"a list of {', '.join(parts)}"
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(parts)
    return "another value"


def _words(hint: Any) -> Iterator[str]:
    return (type_words(part) for part in get_args(hint) if part is not Ellipsis)
