"""Ask before running code that only a file names; code named on the command line runs without a question."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from secateurs.app.cli.method_file import absolute, is_file
from secateurs.errors import InputError

CODE = ("model", "method")
"""Fields of a recipe that may name Python code: path.py:NAME."""


def check_consent(keys: Mapping[str, Any], flags: Mapping[str, Any], where: Path) -> None:
    """Refuse code that the file `where` names, unless the command line names it too or has --trust-code.

    >>> check_consent({"model": "net.py:net"}, {"model": "net.py:net"}, Path("recipe.yaml"))
    >>> check_consent({"model": "net.py:net"}, {}, Path("recipe.yaml"))
    Traceback (most recent call last):
    secateurs.errors.InputError: recipe.yaml names code to run: model 'net.py:net'. A recipe is data, and may be ...
    """
    if flags.get("trust_code"):
        return
    for key in CODE:
        named = keys.get(key)
        if isinstance(named, str) and is_file(named) and not _same(named, flags.get(key)):
            raise InputError(
                f"{where} names code to run: {key} {named!r}. A recipe is data, and may be a stranger's. "
                f"Read that file; if you trust it, say so: --{key} {named}, or --trust-code"
            )


def _same(named: str, given: object) -> bool:
    return isinstance(given, str) and absolute(named) == absolute(given)
