"""Entry point of the command line: dispatch, top-level help, error messages and exit codes."""

import re
import sys
import traceback
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper

from secateurs.errors import DamageError, InputError, RecipeError, SecateursError, near

HELP = """\
usage: secateurs COMMAND [FLAGS]

Make trained vision networks smaller and faster by removing whole channels.

commands:
  demo       train, prune and recover a small network in about two minutes
  prune      prune your network on your data, and recover its accuracy
  export     write the network of a run as ONNX, OpenVINO or torch.export, compared, evaluated and measured
  inspect    show what can be removed from a network, what cannot and why, and what it costs

secateurs COMMAND --help explains a command; secateurs --version names this version.
"""

COMMANDS = ("demo", "prune", "export", "inspect")

FAILED, REFUSED, INTERRUPTED = 1, 2, 130
"""Exit codes: the work failed, an input or a file was refused before any work, Ctrl-C."""

KEPT = "what was finished is kept: --resume"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    with _printable():
        return _told(arguments, debug="--debug" in arguments)


def _told(arguments: list[str], *, debug: bool) -> int:
    """Run a command, and tell whatever goes wrong in one line."""
    try:
        return _dispatch(arguments)
    except KeyboardInterrupt:
        again = " ".join(["secateurs", *arguments, *([] if "--resume" in arguments else ["--resume"])])
        return _fail(f"interrupted; go on with: {again}", INTERRUPTED, debug=debug)
    except (InputError, DamageError) as error:
        return _fail(str(error), REFUSED, debug=debug)
    except SecateursError as error:
        return _fail(str(error), FAILED, debug=debug)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        return _fail(f"{error.strerror or error}{where}; {KEPT}", FAILED, debug=debug)
    except ImportError as error:
        remedy = "python -m pip install 'secateurs[all]'"
        return _fail(f"a package of the command line is missing ({error}); {remedy}", REFUSED, debug=debug)
    except SystemExit as error:
        what = f"code that the command ran called sys.exit({error.code!r}); {KEPT}"
        return _fail(what, FAILED, debug=debug)
    except MemoryError as error:
        return _fail(f"memory is short ({error}); take a smaller batch or network; {KEPT}", FAILED, debug=debug)
    except Exception as error:  # noqa: BLE001 (whatever it is, who typed a command gets a sentence)
        what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        return _fail(f"{what[:500]}; --debug shows where it came from; {KEPT}", FAILED, debug=debug)


@contextmanager
def _printable() -> Generator[None]:
    """Let a terminal that cannot show a character show a question mark, instead of failing after hours of work."""
    streams = [s for s in (sys.stdout, sys.stderr) if isinstance(s, TextIOWrapper)]
    before = [stream.errors for stream in streams]
    for stream in streams:
        stream.reconfigure(errors="replace")
    try:
        yield
    finally:
        for stream, errors in zip(streams, before, strict=True):
            stream.reconfigure(errors=errors)


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        sys.stdout.write(HELP)
        return 0
    if arguments[0] == "--version":
        from secateurs import __version__

        sys.stdout.write(f"secateurs {__version__}\n")
        return 0
    if arguments[0] not in COMMANDS:
        raise RecipeError(f"there is no command {arguments[0]!r}; {near(arguments[0], COMMANDS)}")
    from secateurs.app.cli import commands  # takes seconds, which --help need not

    getattr(commands, arguments[0])([word for word in arguments[1:] if word != "--debug"])
    return 0


def _fail(message: str, code: int, *, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    sys.stderr.write(f"secateurs: {' '.join(_without_traceback(message).split())}\n")
    return code


def _without_traceback(message: str) -> str:
    r"""What an error of a process that reads images said; torch passes it on with its traceback in the message.

    >>> _without_traceback("Caught InputError in DataLoader worker process 0.\n ...\nsecateurs.errors.InputError: no")
    'no'
    """
    if not message.startswith("Caught "):
        return message
    return re.sub(r"^[\w.]+: ", "", message.strip().splitlines()[-1])
