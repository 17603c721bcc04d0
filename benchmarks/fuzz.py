"""Ten thousand random networks against every law, on purpose: python -m benchmarks.fuzz --count 10000 --workers 2.

Writes results/fuzz.json: the command, the seeds, the versions, what was seen and each failure with its seed. One seed
is looked at again with --start SEED --count 1, and as a program with tests.zoo.random_networks.from_seed(SEED).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import subprocess
import sys
import time
import warnings
from collections import Counter
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import scipy
import torch
from tests.zoo.laws import LawError, census, check_all
from tests.zoo.random_networks import from_seed, subject

ROOT = Path(__file__).resolve().parent.parent


def judge(seed: int) -> dict[str, object]:
    """One network: what the graph found, and which law it breaks."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    network = subject(from_seed(seed), seed)
    found: dict[str, object] = {"seed": seed}
    try:
        counted = census(network.graph)
        found |= {"groups": counted.groups, "exact": counted.exact, "inexact": counted.inexact}
        found |= {"protections": counted.protected}
        seen = check_all(network, seed)
        found |= {"removed": seen.removed, "moved": seen.moved > 1e-6, "error": seen.error}
    except LawError as broken:
        found["failure"] = str(broken)
    except Exception as error:  # noqa: BLE001 - a crash is a finding, and the other seeds still have to run
        found["failure"] = f"{network.name}: crash: {type(error).__name__}: {error}"
    return found


def summary(rows: list[dict[str, object]]) -> dict[str, object]:
    """Counts over all networks, and the failures."""
    total = Counter()
    for row in rows:
        for key in ("groups", "exact", "inexact", "protections", "removed"):
            total[key] += row.get(key, 0)
    return {
        "networks": len(rows),
        "groups": total["groups"],
        "units": total["exact"] + total["inexact"],
        "exact_units": total["exact"],
        "inexact_units": total["inexact"],
        "protections": total["protections"],
        "removed_units": total["removed"],
        "networks_moved_by_removal": sum(bool(row.get("moved")) for row in rows),
        "largest_relative_error": max((row["error"] for row in rows if "error" in row), default=None),
        "failures": [{"seed": row["seed"], "fact": row["failure"]} for row in rows if "failure" in row],
    }


def provenance(arguments: argparse.Namespace) -> dict[str, object]:
    """What is needed to run this again."""
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S607
    return {
        "command": " ".join(["python -m benchmarks.fuzz", *sys.argv[1:]]),
        "seeds": [arguments.start, arguments.start + arguments.count],
        "workers": arguments.workers,
        "commit": git.stdout.strip() or None,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "scipy": scipy.__version__,
        },
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }


def main() -> int:
    """Run, print failures as they come, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start", type=int, default=0, help="first seed")
    parser.add_argument("--count", type=int, default=10_000, help="how many networks")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "fuzz.json")
    arguments = parser.parse_args()
    begun = time.perf_counter()
    rows = []
    with multiprocessing.get_context("spawn").Pool(arguments.workers) as pool:
        for row in pool.imap_unordered(judge, range(arguments.start, arguments.start + arguments.count), chunksize=8):
            rows.append(row)
            if "failure" in row:
                print(f"seed {row['seed']}: {row['failure']}", flush=True)
            if len(rows) % 500 == 0:
                print(f"{len(rows)} networks, {time.perf_counter() - begun:.0f} s", flush=True)
    rows.sort(key=lambda row: row["seed"])
    result = provenance(arguments) | summary(rows) | {"seconds": round(time.perf_counter() - begun)}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({key: value for key, value in result.items() if key != "failures"}, indent=2))
    print(f"{len(result['failures'])} failures; written to {arguments.out}")
    return 1 if result["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
