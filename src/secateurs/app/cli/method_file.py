"""Load a method or criterion from a user's file: `--method path.py:Class`."""

import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from secateurs.app.user_code import neighbours_importable
from secateurs.errors import InputError, RecipeError, near
from secateurs.registry import Entry


def is_file(name: str) -> bool:
    """True if a method name has the form path.py:NAME.

    >>> is_file("mine/rank.py:HRank"), is_file("l2")
    (True, False)
    """
    return name.rpartition(":")[0].endswith(".py") or name.endswith(".py")


def absolute(name: str) -> str:
    """Return the name with an absolute path, so that a recipe works in any directory."""
    file, colon, inside = name.rpartition(":")
    return f"{Path(file).expanduser().absolute()}:{inside}" if colon and is_file(name) else name


def method_in_file(name: str) -> Any:
    """Return the value of `path.py:NAME`: an instance of a class, the result of a function, or the value itself."""
    file, colon, inside = name.rpartition(":")
    if not colon or name.endswith(".py"):
        raise RecipeError(f"the method {name!r} names a file but nothing in it; write {name}:CLASS")
    path = Path(file).expanduser().absolute()
    if not path.is_file():
        raise InputError(f"{path} of the method {name!r} is not there; give the path of a Python file")
    module = _module(path, path.stat().st_mtime_ns)
    if not hasattr(module, inside):
        public = [n for n, value in vars(module).items() if not n.startswith("_") and value_from(value, module)]
        raise RecipeError(f"{file} has no {inside!r}; {near(inside, public)}")
    return Entry(name, f"the file {file}", lambda: getattr(module, inside)).make()


def value_from(value: Any, module: ModuleType) -> bool:
    """True if a value is defined in this module and not imported."""
    return getattr(value, "__module__", None) == module.__name__


@cache
def _module(path: Path, changed: int) -> ModuleType:
    """Import a file once; modules in its folder can be imported, as with `python path.py`."""
    name = f"secateurs_method_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} cannot be imported as Python; give the path of a .py file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # needed by dataclasses that the file defines
    try:
        with neighbours_importable(path):
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as cause:
        raise RecipeError(f"{path} cannot be imported: {type(cause).__name__}: {cause}") from cause
    return module
