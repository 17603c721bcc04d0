"""What an attack on an early version found, the guard that stands there now, and the test that sees it break.

    python -m tests.attack.guards [RESULT.json]

breaks every guard once, in a copy of the sources, and runs its tests: each must turn red.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = Path("src", "secateurs")
COMMAND = "python -m tests.attack.guards"
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


def broken(guard, root):
    """Break a guard in a tree for as long as its test runs there, in a process of its own; whether it turned red."""
    path = root / SOURCES / guard.file
    whole = path.read_text("utf-8")
    path.write_text(whole.replace(guard.good, guard.broken), "utf-8")
    words = [guard.test, "-q", "-x", "-p", "no:cacheprovider", "-m", "slow or not slow", "--timeout=600"]
    environment = {**os.environ, "PYTHONPATH": f"{root / 'src'}{os.pathsep}{root}", "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *words], cwd=root, env=environment, capture_output=True, check=False
        )
    finally:
        path.write_text(whole, "utf-8")
    return done.returncode == RED


def main(result=None):
    """Break every guard once, say which tests stayed green, and write them down."""
    stayed = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in ("src", "tests"):
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", root)
        every = [guard for found in FINDS for guard in found.guards]
        for number, guard in enumerate(every, 1):
            red = broken(guard, root)
            stayed += [] if red else [f"{guard.file}: {guard.good.strip().splitlines()[0]}: {guard.test}"]
            sys.stdout.write(f"{number} of {len(every)} {'red' if red else 'GREEN'} {guard.file} {guard.test}\n")
            sys.stdout.flush()
    if result:
        Path(result).write_text(
            json.dumps({"command": COMMAND, "broken": len(every), "stayed green": stayed}, indent=1) + "\n", "utf-8"
        )
    return bool(stayed)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
