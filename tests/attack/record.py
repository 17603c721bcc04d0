"""The whole attack, written down: `python -m tests.attack.record FILE`."""

import os
import platform
import sys
import time
from pathlib import Path

import torch
from tests.attack import sections

import secateurs

PARTS = {
    "a save killed before each call that changes the disk": sections.kills,
    "saved models damaged or hostile, hashes also computed anew (seed 1)": lambda: sections.saved_models(1000, 1),
    "arguments of the verbs that belong elsewhere, from their signatures": sections.arguments,
    "four threads that save to one folder": lambda: sections.threads(20),
    "cycles of prune, save and load, with level memory": lambda: sections.cycles(1000),
}


def main(path):
    """Run every part and write the table."""
    lines = [
        "# The attack",
        "",
        "Written by `make attack`.",
        "",
        "| part | tried | held | CPU seconds |",
        "|---|---|---|---|",
    ]
    wrong = []
    for name, part in PARTS.items():
        start = sum(os.times()[:4])
        tried, failed = part()
        lines.append(f"| {name} | {tried:,} | {tried - len(failed):,} | {sum(os.times()[:4]) - start:.0f} |")
        wrong += [f"- {name}: {one}" for one in failed]
    versions = f"secateurs {secateurs.__version__}, torch {torch.__version__}, Python {platform.python_version()}"
    lines += ["", *(["What did not hold:", "", *wrong] if wrong else ["Everything held."]), ""]
    lines += [f"{versions}, {platform.system()}, {time.strftime('%Y-%m-%d', time.gmtime())}.", ""]
    Path(path).write_text("\n".join(lines), encoding="utf-8")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
