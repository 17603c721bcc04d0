"""The whole attack, written down: `python -m tests.attack.record FILE [FOLDER FOR WHAT FUZZING FINDS]`."""

import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch
from tests.attack import command_line, sections
from tests.attack.fuzz import SEED

import secateurs

FUZZED = 600
"""CPU seconds of fuzzing."""


def started(folder):
    """Begin to fuzz every reader in a process of its own, beside the other parts; None if atheris is not installed."""
    if find_spec("atheris") is None:
        return None
    command = [sys.executable, "-m", "tests.attack.fuzz", str(FUZZED), folder]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=(Path(folder) / "fuzz.log").open("w"), text=True)


def fuzzing(process, folder):
    """Files that the fuzzing process read, and what it found."""
    if process is None:
        return 0, []
    said, _ = process.communicate()
    found = re.search(r"(\d+) files were read", said)
    told = said[-800:] + (Path(folder) / "fuzz.log").read_text(errors="replace")[-800:]
    words = [] if found and process.returncode == 0 else [f"exit {process.returncode}: {told}"]
    return int(found[1]) if found else 1, words


def parts(folder):
    """Name -> what gives how much was tried, and what did not hold; the fuzzing process has begun."""
    process = started(folder)
    return PARTS | {NAME: lambda: fuzzing(process, folder)}


NAME = f"coverage-guided fuzzing of every reader, {FUZZED} CPU seconds (atheris, seed {SEED})"
PARTS = {
    "saves, tables, records, checkpoints and exports killed before each call that changes the disk": sections.kills,
    "saved models damaged or hostile, hashes also computed anew (seed 1)": lambda: sections.saved_models(1000, 1),
    "files of every kind damaged or hostile, given to their readers (seed 1)": lambda: sections.files(2000, 1),
    "files of a run damaged or hostile, and the run resumed (seed 1)": lambda: command_line.run_folders(100, 1),
    "bad values of every flag of the command line": command_line.flags,
    "arguments of the verbs that belong elsewhere, from their signatures": sections.arguments,
    "four threads that save to one folder": lambda: sections.threads(20),
    "four processes that save to one folder": lambda: sections.processes(20),
    "cycles of prune, save, load and a session, with level memory": lambda: sections.cycles(1000),
    "files that fuzzing kept, given to their readers": sections.corpus,
}


HEAD = """\
# The attack

Written by `make attack`.

| part | tried | held | CPU seconds |
|---|---|---|---|
"""


def main(path, folder):
    """Run every part, and write the table again after each; what fuzzing finds is kept in the folder."""
    versions = f"secateurs {secateurs.__version__}, torch {torch.__version__}, Python {platform.python_version()}"
    if find_spec("atheris"):
        versions += f", atheris {version('atheris')}"
    foot = f"{versions}, {platform.system()}, {time.strftime('%Y-%m-%d', time.gmtime())}."
    rows, wrong = "", []
    every = parts(folder)
    for number, (name, part) in enumerate(every.items(), 1):
        start = sum(os.times()[:4])
        tried, failed = part()
        counts = f"{tried:,} | {tried - len(failed):,}" if tried else "skipped: atheris is not installed | "
        rows += f"| {name} | {counts} | {sum(os.times()[:4]) - start:.0f} |\n"
        wrong += [f"- {name}: {one}" for one in failed]
        held = (
            "Everything held." if number == len(every) else f"Everything held; {len(every) - number} parts did not run."
        )
        said = "\n".join(["What did not hold:", "", *wrong]) if wrong else held
        Path(path).write_text(f"{HEAD}{rows}\n{said}\n\n{foot}\n", encoding="utf-8")
    return bool(wrong)


if __name__ == "__main__":
    kept = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(tempfile.mkdtemp(prefix="secateurs-fuzz-"))
    kept.mkdir(parents=True, exist_ok=True)
    sys.exit(main(sys.argv[1], str(kept)))
