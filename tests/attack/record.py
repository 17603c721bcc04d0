"""The whole attack, written down: `python -m tests.attack.record FILE`."""

import os
import platform
import re
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import torch
from tests.attack import command_line, sections

import secateurs

FUZZED = 600
"""CPU seconds of fuzzing."""


def fuzzing():
    """Fuzz every reader in a process of its own, if atheris is installed: files read, and what was found."""
    if find_spec("atheris") is None:
        return 0, []
    command = [sys.executable, "-m", "tests.attack.fuzz", str(FUZZED)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    found = re.search(r"(\d+) files were read", done.stdout)
    words = (
        [] if found and done.returncode == 0 else [f"exit {done.returncode}: {done.stdout[-800:]}{done.stderr[-800:]}"]
    )
    return int(found[1]) if found else 1, words


PARTS = {
    "saves, tables, records, checkpoints and exports killed before each call that changes the disk": sections.kills,
    "saved models damaged or hostile, hashes also computed anew (seed 1)": lambda: sections.saved_models(1000, 1),
    "files of every kind damaged or hostile, given to their readers (seed 1)": lambda: sections.files(2000, 1),
    "files of a run damaged or hostile, and the run resumed (seed 1)": lambda: command_line.run_folders(300, 1),
    "bad values of every flag of the command line": command_line.flags,
    "arguments of the verbs that belong elsewhere, from their signatures": sections.arguments,
    "four threads that save to one folder": lambda: sections.threads(20),
    "four processes that save to one folder": lambda: sections.processes(20),
    "cycles of prune, save, load and a session, with level memory": lambda: sections.cycles(1000),
    "files that fuzzing kept, given to their readers": sections.corpus,
    f"coverage-guided fuzzing of every reader, {FUZZED} CPU seconds (atheris)": fuzzing,
}


HEAD = """\
# The attack

Written by `make attack`.

| part | tried | held | CPU seconds |
|---|---|---|---|
"""


def main(path):
    """Run every part, and write the table again after each."""
    versions = f"secateurs {secateurs.__version__}, torch {torch.__version__}, Python {platform.python_version()}"
    foot = f"{versions}, {platform.system()}, {time.strftime('%Y-%m-%d', time.gmtime())}."
    rows, wrong = "", []
    for number, (name, part) in enumerate(PARTS.items(), 1):
        start = sum(os.times()[:4])
        tried, failed = part()
        counts = f"{tried:,} | {tried - len(failed):,}" if tried else "skipped: atheris is not installed | "
        rows += f"| {name} | {counts} | {sum(os.times()[:4]) - start:.0f} |\n"
        wrong += [f"- {name}: {one}" for one in failed]
        held = (
            "Everything held." if number == len(PARTS) else f"Everything held; {len(PARTS) - number} parts did not run."
        )
        said = "\n".join(["What did not hold:", "", *wrong]) if wrong else held
        Path(path).write_text(f"{HEAD}{rows}\n{said}\n\n{foot}\n", encoding="utf-8")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
