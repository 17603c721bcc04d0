"""What an attack on an early version found, the guard that stands there now, and the test that sees it break.

    python -m tests.attack.guards results/guards.md

runs the tests on the sources as they are; then breaks every guard once, in a copy, runs its test in a process of its
own, and writes the table. Beside it, guards.json keeps what has turned red: the same command again goes on from there,
and begins anew where that file is gone.
"""

import json
import os
import platform
import shutil
import sys
import tempfile
import tomllib
import traceback
from dataclasses import astuple, dataclass
from pathlib import Path

import pytest
from tests.attack.faults import ended

ROOT = Path(__file__).parents[2]
SOURCES = Path("src", "secateurs")
GREEN, RED = 0, 1
"""What pytest ends with when every test passed, and when one failed."""


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
    try:
        return failed([guard.test], root)
    finally:
        path.write_text(whole, "utf-8")


def failed(tests, root):
    """Whether tests fail in a copy, in a process of its own; RuntimeError where they do not run."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status = -1
        try:
            status = tested(tests, root)
        except BaseException:  # noqa: BLE001 (a child never goes on as its parent)
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    status = ended(child)
    if status not in (GREEN, RED):
        raise RuntimeError(f"{tests} did not run: {(root / 'log').read_text(errors='replace')[-2000:]}")
    return status == RED


def tested(tests, root):
    """What pytest ends with, of a process that has the copy's modules and no others of that name."""
    log = os.open(root / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(root)
    sys.path[:0] = [str(root / "src"), str(root)]
    for name in [name for name in sys.modules if name.partition(".")[0] in ("tests", "secateurs")]:
        del sys.modules[name]
    words = ["-q", "-x", "-p", "no:cacheprovider", "-m", "slow or not slow", "--timeout=600"]
    words += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # of what was imported before the fork
    return int(pytest.main([*tests, *words]))


def main(file):
    """Break every guard that has not turned red yet, and write the table again after each."""
    import lightning.pytorch  # noqa: F401
    import torchvision  # noqa: F401 (each child would import them anew)

    sys.dont_write_bytecode = True
    every, kept = [guard for found in FINDS for guard in found.guards], Path(file).with_suffix(".json")
    red = json.loads(kept.read_text("utf-8")) if kept.exists() else []
    turned = {guard: True for guard in every if list(astuple(guard)) in red}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in ("src", "tests"):
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", root)
        if not turned and failed(list(dict.fromkeys(guard.test for guard in every)), root):
            raise RuntimeError(f"a test fails before anything is broken: {(root / 'log').read_text()[-2000:]}")
        for guard in [guard for guard in every if guard not in turned]:
            turned[guard] = broken(guard, root)
            sys.stdout.write(f"{'red' if turned[guard] else 'GREEN'} {guard.file} {guard.test}\n")
            sys.stdout.flush()
            Path(file).write_text(told(turned), "utf-8")
            kept.write_text(json.dumps([astuple(guard) for guard, red in turned.items() if red], indent=1), "utf-8")
    return not all(turned.values())


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
