"""Table of the commands. A new one is a module with a dataclass and a function, and a line here.

The fields of the dataclass are the command's arguments (`flags.setting`); the function takes it and a console, does the
work and prints; its documentation is the command's help.

    @dataclass(frozen=True)
    class Comparison:
        first: Path = setting("the folder of a finished run", "RUN")

    def compare(comparison: Comparison, console: Console) -> None:
        '''Show ... and examples.'''

Where flags depend on others, the class makes its own parser and reads its own values: `Invocation` in arguments.py.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from inspect import getdoc, signature
from typing import Any, get_type_hints

from jsonargparse import ArgumentParser, set_parsing_settings

from secateurs.app.cli.flags import add_fields, new_parser, parse_flags
from secateurs.errors import RecipeError, near


@dataclass(frozen=True)
class Command:
    """Import path of a command's function, its summary, and the extras of the package that it uses."""

    place: str
    summary: str
    extras: tuple[str, ...] = ("cli",)

    def function(self) -> Callable[[Any, Any], None]:
        """Import the function; this may take seconds."""
        module, _, name = self.place.partition(":")
        return getattr(import_module(module), name)


APP = "secateurs.app.cli"
TRAINS = ("cli", "train", "report")
COMMANDS = {
    "demo": Command(f"{APP}.demo:demo", "train, prune and recover a small network in about two minutes", TRAINS),
    "prune": Command(f"{APP}.pruning:prune", "prune your network on your data, and recover its accuracy", TRAINS),
    "compare": Command(f"{APP}.comparison:compare", "show two finished runs side by side"),
    "reproduce": Command(
        f"{APP}.reproduce:reproduce", "run an experiment of a paper by its name; list all of them", TRAINS
    ),
    "sweep": Command(f"{APP}.sweep:sweep", "run many methods, budgets and seeds from one file", TRAINS),
    "leaderboard": Command(
        f"{APP}.leaderboard:leaderboard", "tables of many runs, with their controls, from their records", TRAINS
    ),
    "export": Command(
        f"{APP}.exporting:export",
        "write the network of a run as ONNX, OpenVINO or torch.export, compared, evaluated and measured",
        (*TRAINS, "export"),
    ),
    "inspect": Command(
        f"{APP}.inspect:inspect", "show what can be removed from a network, what cannot and why, and what it costs"
    ),
}

DESCRIPTION = "Make trained vision networks smaller and faster by removing whole channels."
EPILOG = """\
secateurs COMMAND --help explains a command. Completion for a shell: secateurs --print_completion shtab-bash
(or shtab-zsh), for example in your ~/.bashrc: eval "$(secateurs --print_completion shtab-bash)".
Exit codes: 0 done, 1 failed during the work, 2 refused before any work, 130 interrupted.
"""
COMPLETION = "--print_completion"


def read(arguments: Sequence[str]) -> tuple[Callable[[Any, Any], None], Any]:
    """Parse a command line; return the command's function and its argument.

    Raises SystemExit after printing help, the version or a completion script.
    """
    name = arguments[0] if arguments else "--help"
    if name not in COMMANDS and not name.startswith("-"):
        raise RecipeError(f"there is no command {name!r}; {near(name, COMMANDS)}")
    if _asks_for_completion(arguments) and find_spec("shtab") is None:
        raise ModuleNotFoundError("it writes the completion", name="shtab")
    parser, command = top_parser(arguments)
    values = parse_flags(parser, arguments or ["--help"], command)
    chosen = dict(values.get(name) or {})
    chosen.pop("debug", None)
    function = COMMANDS[name].function()
    return function, settings_of(function, chosen)


def execute(function: Callable[[Any, Any], None], settings: Any) -> None:
    """Run a command."""
    from rich.console import Console

    function(settings, Console())


def top_parser(arguments: Sequence[str]) -> tuple[ArgumentParser, ArgumentParser | None]:
    """Make the parser of the command line, and that of the named command, the only one with its flags added."""
    from secateurs import __version__

    set_parsing_settings(add_print_completion_argument=True)
    parser, chosen = new_parser(DESCRIPTION, EPILOG), None
    parser.prog, parser.usage = "secateurs", "secateurs COMMAND [FLAGS]"
    parser.add_argument("--version", action="version", version=f"secateurs {__version__}", help="name this version")
    listed = parser.add_subcommands(required=False, dest="command", metavar="COMMAND", title="commands", description="")
    everything = _asks_for_completion(arguments)
    for name, command in COMMANDS.items():
        named = name in arguments[:1]
        made = command_parser(name, arguments[1:]) if named or everything else new_parser()
        chosen = made if named else chosen
        listed.add_subcommand(name, made, help=command.summary)
    return parser, chosen


def _asks_for_completion(arguments: Sequence[str]) -> bool:
    return any(word.partition("=")[0] == COMPLETION for word in arguments)


def command_parser(name: str, arguments: Sequence[str] = ()) -> ArgumentParser:
    """Make the parser of a command; `arguments`: the words after its name."""
    function = COMMANDS[name].function()
    kind = _settings_class(function)
    if hasattr(kind, "parser"):
        parser = kind.parser(arguments)
    else:
        parser = new_parser()
        add_fields(parser, kind)
    parser.description = getdoc(function)
    needed = [str(a.metavar or a.dest) for a in parser._actions if not a.option_strings]  # noqa: SLF001
    parser.usage = parser.usage or " ".join(["secateurs", name, *needed, "[FLAGS]"])
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def settings_of(function: Callable[[Any, Any], None], values: Mapping[str, Any]) -> Any:
    """Build the dataclass that a command's function takes from the values given."""
    kind = _settings_class(function)
    if hasattr(kind, "settings"):
        return kind.settings(values)
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


def _settings_class(function: Callable[[Any, Any], None]) -> Any:
    first = next(iter(signature(function).parameters))
    return get_type_hints(function)[first]
