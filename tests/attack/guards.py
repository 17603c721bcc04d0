"""What an attack on an early version found, the guard that stands there now, and the test that sees it break.

    python -m tests.attack.guards results/guards.md

breaks every guard once, in a copy of the sources, runs its test in a process of its own, and writes the table.
"""

import os
import platform
import shutil
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.attack.faults import ended

ROOT = Path(__file__).parents[2]
SOURCES = Path("src", "secateurs")
RED = 1
"""What pytest ends with when a test failed."""


@dataclass(frozen=True)
class Guard:
    """A line of a file of the library, what breaks it, and the test that turns red then."""

    file: str
    good: str
    broken: str
    test: str


@dataclass(frozen=True)
class Find:
    """What the attack found: how bad, in words, and its guards."""

    rank: str
    words: str
    guards: tuple[Guard, ...]


def finds():
    """What is written in guards.toml."""
    table = tomllib.loads(Path(__file__).with_name("guards.toml").read_text("utf-8"))
    return [Find(one["rank"], one["words"], tuple(Guard(**guard) for guard in one["guard"])) for one in table["find"]]


FINDS = finds()
HEAD = """\
# Guards

Found by an attack on an early version; the guards that stand there now, below `src/secateurs`; the tests that turn red
when a guard is broken. Written by `python -m tests.attack.guards results/guards.md`, which breaks the guards of
`tests/attack/guards.toml` one by one. A test keeps that every guard and every test of the table exists.

| rank | found | guards | tests | broken | red |
|---|---|---|---|---|---|
"""


def told(turned):
    """The table; `turned`: guard -> whether its test turned red, of those that were broken."""
    rows = ""
    for one in FINDS:
        files = dict.fromkeys(f"`{guard.file.removeprefix('../../')}`" for guard in one.guards)
        tests = dict.fromkeys(f"`{guard.test.rpartition('::')[2].partition('[')[0]}`" for guard in one.guards)
        seen = [turned[guard] for guard in one.guards if guard in turned]
        words = f"| {one.rank} | {one.words} | {', '.join(files)} | {', '.join(tests)} |"
        rows += f"{words} {len(seen)} of {len(one.guards)} | {sum(seen)} |\n"
    every = sum(len(one.guards) for one in FINDS)
    return (
        f"{HEAD}{rows}\n{len(turned)} of {every} guards were broken, and {sum(turned.values())} turned a test red.\n\n"
        f"Python {platform.python_version()}, {platform.system()}.\n"
    )


def broken(guard, root):
    """Break a guard in a copy for as long as its test runs there, in a process of its own; whether it turned red."""
    path = root / SOURCES / guard.file
    whole = path.read_text("utf-8")
    path.write_text(whole.replace(guard.good, guard.broken), "utf-8")
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status = RED + 1
        try:
            status = tested(guard.test, root)
        finally:
            os._exit(status)
    status = ended(child)
    path.write_text(whole, "utf-8")
    return status == RED


def tested(test, root):
    """What pytest ends with, of a process that has the copy's modules and no others of that name."""
    os.chdir(root)
    sys.path[:0] = [str(root / "src"), str(root)]
    for name in [name for name in sys.modules if name.partition(".")[0] in ("tests", "secateurs")]:
        del sys.modules[name]
    log = os.open(root / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    return int(pytest.main([test, "-q", "-x", "-p", "no:cacheprovider", "-m", "slow or not slow", "--timeout=600"]))


def main(file):
    """Break every guard once, and write the table again after each."""
    import lightning.pytorch  # noqa: F401
    import torchvision  # noqa: F401 (each child would import them anew)

    sys.dont_write_bytecode, turned = True, {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in ("src", "tests"):
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", root)
        for guard in [guard for found in FINDS for guard in found.guards]:
            turned[guard] = broken(guard, root)
            sys.stdout.write(f"{'red' if turned[guard] else 'GREEN'} {guard.file} {guard.test}\n")
            sys.stdout.flush()
            Path(file).write_text(told(turned), "utf-8")
    return not all(turned.values())


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
