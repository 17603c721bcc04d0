"""Make modules next to a user's file importable, as `python path.py` would."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator


@contextmanager
def neighbours_importable(path: Path) -> Generator[None]:
    """Let code import modules from the folder of `path`.

    They are removed from sys.modules afterwards, so that two files can each have their own `utils.py`.
    """
    folder, before = path.resolve().parent, set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in sys.modules.keys() - before:
            file = getattr(sys.modules[name], "__file__", None)
            if file is not None and Path(file).parent == folder and Path(file) != path.resolve():
                del sys.modules[name]
