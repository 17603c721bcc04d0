"""The commands: a new one is a dataclass in requests.py, a function, and a line here.

The fields of the dataclass are the arguments (`flags.setting`); its docstring is the help. The function takes a value
of it and a console, does the work and prints. Its module is imported only to do the work, so that help and errors in
arguments need no heavy imports.

    @dataclass(frozen=True)
    class Comparison:
        '''Show ... and examples.'''

        first: Path = setting("the folder of a finished run", "RUN")

    def compare(comparison: Comparison, console: Console) -> None: ...

Where flags depend on others, the class makes its own parser and reads its own values: `Invocation` in arguments.py.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from inspect import getdoc
from typing import Any

from jsonargparse import ArgumentParser, set_parsing_settings

from secateurs.app.cli.flags import add_fields, new_parser, parse_flags
from secateurs.errors import RecipeError, near
from secateurs.registry import names


@dataclass(frozen=True)
class Command:
    """Import path of a command's function, its summary, and the extras of the package that it uses."""

    work: str
    request: str
    summary: str
    extras: tuple[str, ...] = ("cli",)

    def function(self) -> Callable[[Any, Any], None]:
        """Import the function; this may take seconds."""
        return _at(self.work)

    def kind(self) -> Any:
        """Import the dataclass of the arguments."""
        return _at(self.request)


def _at(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


APP = "secateurs.app.cli"
TOLD = f"{APP}.requests"
TRAINS = ("cli", "train", "report")
COMMANDS = {
    "demo": Command(
        f"{APP}.demo:demo",
        f"{APP}.demo:Demonstration",
        "train, prune and recover a small network in about two minutes",
        TRAINS,
    ),
    "prune": Command(
        f"{APP}.pruning:prune",
        f"{TOLD}:Pruning",
        "prune your network on your data, and recover its accuracy",
        TRAINS,
    ),
    "compare": Command(f"{APP}.comparison:compare", f"{TOLD}:Comparison", "show two finished runs side by side"),
    "reproduce": Command(
        f"{APP}.reproduce:reproduce",
        f"{TOLD}:Reproduction",
        "run an experiment of a paper by its name; list all of them",
        TRAINS,
    ),
    "sweep": Command(
        f"{APP}.sweep:sweep", f"{TOLD}:SweepOrder", "run many methods, budgets and seeds from one file", TRAINS
    ),
    "leaderboard": Command(
        f"{APP}.leaderboard:leaderboard",
        f"{TOLD}:Board",
        "tables of many runs, with their controls, from their records",
        TRAINS,
    ),
    "export": Command(
        f"{APP}.exporting:export",
        f"{TOLD}:ExportOrder",
        "write the network of a run as ONNX, OpenVINO or torch.export, compared, evaluated and measured",
        (*TRAINS, "export"),
    ),
    "inspect": Command(
        f"{APP}.inspect:inspect",
        f"{TOLD}:Inspection",
        "show what can be removed from a network, what cannot and why, and what it costs",
    ),
}

DESCRIPTION = "Make trained vision networks smaller and faster by removing whole channels."
EPILOG = """\
secateurs COMMAND --help explains a command. Completion for bash, once (for zsh: shtab-zsh, to ~/.zfunc/_secateurs):
  secateurs --print_completion shtab-bash > ~/.local/share/bash-completion/completions/secateurs
Exit codes: 0 done, 1 failed during the work, 2 refused before any work, 130 interrupted.
"""
COMPLETION = "--print_completion"


def read(arguments: Sequence[str]) -> tuple[Command, Any]:
    """Parse a command line; return the command and its argument.

    Raises SystemExit after printing help, the version or a completion script.
    """
    name = arguments[0] if arguments else "--help"
    if name not in COMMANDS and not name.startswith("-"):
        raise RecipeError(f"there is no command {name!r}; {near(name, COMMANDS)}")
    if _asks_for_completion(arguments) and find_spec("shtab") is None:
        raise ModuleNotFoundError("it writes the completion", name="shtab")
    parser, spoken = top_parser(arguments)
    values = parse_flags(parser, arguments or ["--help"], spoken)
    chosen = dict(values.get(name) or {})
    chosen.pop("debug", None)
    return COMMANDS[name], settings_of(COMMANDS[name].kind(), chosen)


def execute(command: Command, settings: Any) -> None:
    """Run a command."""
    from rich.console import Console

    command.function()(settings, Console())


def top_parser(arguments: Sequence[str]) -> tuple[ArgumentParser, ArgumentParser | None]:
    """Make the parser of the command line, and that of the named command, the only one with its flags added."""
    from secateurs.version import library_version

    set_parsing_settings(add_print_completion_argument=True)
    parser, chosen = new_parser(DESCRIPTION, EPILOG), None
    parser.prog, parser.usage = "secateurs", "secateurs COMMAND [FLAGS]"
    version = f"secateurs {library_version()}"
    parser.add_argument("--version", action="version", version=version, help="name this version")
    listed = parser.add_subcommands(required=False, dest="command", metavar="COMMAND", title="commands", description="")
    everything = _asks_for_completion(arguments)
    for name, command in COMMANDS.items():
        named = name in arguments[:1]
        made = command_parser(name, arguments[1:]) if named or everything else new_parser()
        chosen = made if named else chosen
        if everything:
            _name_methods(made)
        listed.add_subcommand(name, made, help=command.summary)
    return parser, chosen


def _name_methods(parser: ArgumentParser) -> None:
    """Add the names of methods to the completion of `--method`."""
    for action in parser._actions:  # noqa: SLF001
        if action.dest == "method.name":
            action.option_strings, action.choices = ["--method"], names()


def _asks_for_completion(arguments: Sequence[str]) -> bool:
    return any(word.partition("=")[0] == COMPLETION for word in arguments)


def command_parser(name: str, arguments: Sequence[str] = ()) -> ArgumentParser:
    """Make the parser of a command; `arguments`: the words after its name."""
    kind = COMMANDS[name].kind()
    if hasattr(kind, "parser"):
        parser = kind.parser(arguments)
    else:
        parser = new_parser()
        add_fields(parser, kind)
    parser.description = getdoc(kind)
    needed = [str(a.metavar or a.dest) for a in parser._actions if not a.option_strings]  # noqa: SLF001
    parser.usage = parser.usage or " ".join(["secateurs", name, *needed, "[FLAGS]"])
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def settings_of(kind: Any, values: Mapping[str, Any]) -> Any:
    """Build the dataclass that a command's function takes from the values given."""
    if hasattr(kind, "settings"):
        return kind.settings(values)
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})
