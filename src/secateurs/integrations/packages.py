"""Import optional packages when they are used; errors name the extra that installs them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from secateurs.errors import InputError


def needed(module: str, *, extra: str) -> Any:
    """Import a module of an optional package.

    Raises InputError with the extra to install if the package is missing; other import errors are passed on.

    >>> needed("json", extra="json").dumps([1])
    '[1]'
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as cause:
        package = module.partition(".")[0]
        if (cause.name or "").partition(".")[0] != package:
            raise
        message = (
            f"{package} is not installed, and secateurs.integrations.{extra} calls it. "
            f"Install it with: python -m pip install 'secateurs[{extra}]'"
        )
        raise InputError(message) from cause
