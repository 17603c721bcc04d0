"""Run the speed benchmarks one after the other: `make bench`. Numbers mean something on an idle machine only."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
SCRIPTS = {
    "engine.py": ["--out", "results/engine.json"],
    "one_shot_speed.py": [],
    "session_overhead.py": [],
}


def main() -> None:
    """Run every script that is there, in a process of its own on one thread."""
    for name, arguments in SCRIPTS.items():
        script = HERE / name
        if script.exists():
            print(f"\n== {name}", flush=True)
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            subprocess.run([sys.executable, str(script), *arguments], check=True, env=environment)  # noqa: S603


if __name__ == "__main__":
    main()
