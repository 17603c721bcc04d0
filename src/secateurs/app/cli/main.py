"""Entry point of the command line: every error becomes one sentence and an exit code."""

import logging
import re
import sys
import traceback
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper

from secateurs.errors import DamageError, InputError, SecateursError
from secateurs.version import library_version

FAILED, REFUSED, INTERRUPTED = 1, 2, 130
"""Exit codes: failure during work, refusal before any work, Ctrl-C."""

KEPT = "what was finished is kept: --resume"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # PyTorch notes the absence of a compiler of GPU kernels that nothing here needs.
    logging.getLogger("torch.utils.flop_counter").setLevel(logging.ERROR)
    with _printable():
        return _told(arguments, debug="--debug" in arguments)


def _told(arguments: list[str], *, debug: bool) -> int:
    """Run a command, and print any error in one line."""
    try:
        return _done(arguments)
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
        return _fail(_missing(error, arguments), REFUSED, debug=debug)
    except SystemExit as error:
        what = f"code that the command ran called sys.exit({error.code!r}); {KEPT}"
        return _fail(what, FAILED, debug=debug)
    except Exception as error:  # noqa: BLE001 (whatever it is, who typed a command gets a sentence)
        return _fail(f"{_fact(error)}; {KEPT}", FAILED, debug=debug)


def _fact(error: Exception) -> str:
    """Say what went wrong during the work, with the remedy where the error is known.

    >>> _fact(RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"))
    'a process that reads images was killed, often because memory is short; take fewer --workers or a smaller batch'
    """
    words = " ".join(str(error).split())
    if re.match(r"DataLoader worker \(pid.*(killed by signal|exited unexpectedly)", words):
        why = "a process that reads images was killed, often because memory is short"
        return f"{why}; take fewer --workers or a smaller batch"
    if isinstance(error, MemoryError) or re.search(r"out of memory|can't allocate memory", words, re.IGNORECASE):
        return f"memory is short ({words[:200]}); take a smaller batch or network"
    what = f"{type(error).__name__}: {words}" if words else type(error).__name__
    return f"{what[:500]}; --debug shows where it came from"


def _done(arguments: list[str]) -> int:
    """Run a command; the parser leaves by itself after a help text."""
    if arguments == ["--version"]:  # also where the extra that brings the parser is missing
        sys.stdout.write(f"secateurs {library_version()}\n")
        return 0
    from secateurs.app.cli import commands

    try:
        command, settings = commands.read(arguments)
    except SystemExit as leaving:
        return int(leaving.code or 0)
    commands.execute(command, settings)
    return 0


def _missing(error: ImportError, arguments: list[str]) -> str:
    """Return the message about packages missing for this command."""
    from secateurs.app.cli.extras import remedy

    try:
        from secateurs.app.cli.commands import COMMANDS
    except ImportError:
        return remedy(error, ("cli",))
    command = COMMANDS.get(arguments[0]) if arguments else None
    return remedy(error, command.extras if command else ("cli",))


@contextmanager
def _printable() -> Generator[None]:
    """Replace characters that the terminal's encoding lacks by question marks, instead of failing."""
    streams = [s for s in (sys.stdout, sys.stderr) if isinstance(s, TextIOWrapper)]
    before = [stream.errors for stream in streams]
    for stream in streams:
        stream.reconfigure(errors="replace")
    try:
        yield
    finally:
        for stream, errors in zip(streams, before, strict=True):
            stream.reconfigure(errors=errors)


def _fail(message: str, code: int, *, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    sys.stderr.write(f"secateurs: {' '.join(_without_traceback(message).split())}\n")
    return code


def _without_traceback(message: str) -> str:
    r"""Return the message of an error in a data-loading process; torch puts its traceback into the message too.

    >>> _without_traceback("Caught InputError in DataLoader worker process 0.\n ...\nsecateurs.errors.InputError: no")
    'no'
    """
    if not message.startswith("Caught "):
        return message
    return re.sub(r"^[\w.]+: ", "", message.strip().splitlines()[-1])
