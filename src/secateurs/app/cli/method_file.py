"""A method or criterion in somebody's own file: `--method path.py:Class`."""

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
    """Whether a method is named by a file and what is in it.

    >>> is_file("mine/rank.py:HRank"), is_file("l2")
    (True, False)
    """
    return name.rpartition(":")[0].endswith(".py") or name.endswith(".py")


def absolute(name: str) -> str:
    """The same name with the path of its file made absolute, so that a recipe can be run from anywhere."""
    file, colon, inside = name.rpartition(":")
    return f"{Path(file).expanduser().absolute()}:{inside}" if colon and is_file(name) else name


def method_in_file(name: str) -> Any:
    """The value that `path.py:Class` makes: a class or a function without arguments, or a value with its settings."""
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
    """Whether a module made this itself, and did not import it."""
    return getattr(value, "__module__", None) == module.__name__


@cache
def _module(path: Path, changed: int) -> ModuleType:
    """The module of a file, run once; files beside it can be imported, as with `python path.py`."""
    name = f"secateurs_method_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} cannot be imported as Python; give the path of a .py file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses defined in the file look themselves up here
    try:
        with neighbours_importable(path):
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as cause:
        raise RecipeError(f"{path} cannot be imported: {type(cause).__name__}: {cause}") from cause
    return module
