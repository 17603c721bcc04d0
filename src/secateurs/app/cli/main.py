"""Which command was meant, its help, and what an error looks like to somebody who typed one."""

import sys
import traceback
from collections.abc import Sequence

from secateurs.errors import InputError, RecipeError, SecateursError, near

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
"""Exit codes: the work failed, the input was refused before any work, Ctrl-C."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    try:
        return _dispatch(arguments)
    except KeyboardInterrupt:
        again = " ".join(["secateurs", *arguments, *([] if "--resume" in arguments else ["--resume"])])
        return _fail(f"interrupted; go on with: {again}", INTERRUPTED, debug=debug)
    except InputError as error:
        return _fail(str(error), REFUSED, debug=debug)
    except SecateursError as error:
        return _fail(str(error), FAILED, debug=debug)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        return _fail(f"{error.strerror or error}{where}; what was finished is kept: --resume", FAILED, debug=debug)
    except ImportError as error:
        remedy = "python -m pip install 'secateurs[all]'"
        return _fail(f"a package of the command line is missing ({error}); {remedy}", REFUSED, debug=debug)


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
    sys.stderr.write(f"secateurs: {' '.join(message.split())}\n")
    return code
