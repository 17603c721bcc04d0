"""The command line under attack: bad values of every flag, and damaged files of a run."""

import json
import shutil
import tempfile
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import fields
from io import StringIO
from pathlib import Path
from random import Random
from unittest.mock import patch

from tests.attack.mutations import corrupted, dumped, mutated
from tests.attack.readers import sealed
from tests.end_to_end.test_cli import FAST, NET

from secateurs.app.cli import main, measure, pruning
from secateurs.app.cli.recipe import Recipe
from secateurs.app.report import picture
from secateurs.errors import SecateursError

BAD = [
    "",
    "x",
    "-1",
    "0",
    "1e400",
    "nan",
    "99999999999999999999",
    "1.5",
    "[",
    "null",
    "../..",
    "\x00",
    "é" * 3000,
    "1 2",
]
"""Values that belong nowhere on the command line, or not everywhere."""
PROMISED = ("plan.json", "model.safetensors")


class ReachedError(SecateursError):
    """The input was taken, and the work would begin."""


def told(argv):
    """What is wrong with how the command line answers: more or less than a sentence, another code, an exception."""
    out, err = StringIO(), StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(err):
            code = main(argv)
    except BaseException as error:  # noqa: BLE001 (this is what is looked for)
        return None, f"{type(error).__name__}: {error}"
    if code not in (0, 1, 2):
        return code, f"exit code {code}"
    if code and (err.getvalue().count("\n") != 1 or len(err.getvalue()) < 20):
        return code, f"not one sentence: {err.getvalue()[:300]!r}"
    return code, ""


@contextmanager
def quick():
    """Latency in a twentieth of a second, a coarse picture: nobody looks at these."""
    with patch.object(measure, "SECONDS", 0.05), patch.object(measure, "RUNS", 1), patch.object(picture, "DOTS", 20):
        yield


def flags(every=1):
    """Every flag of a run, from the fields of its recipe, with values that belong elsewhere; every `every`-th."""
    tried, failed = 0, []

    def reached(*_):
        raise ReachedError("the input was taken, and the work would begin here")

    with tempfile.TemporaryDirectory() as folder, patch.object(pruning, "train", reached):
        own = Path(folder, "own.py")
        own.write_text(NET)
        names = [f.name.replace("_", "-") for f in fields(Recipe) if f.name != "options"] + ["config", "method.p"]
        for flag, value in [(name, value) for name in names for value in BAD][::every]:
            argv = ["prune", "--model", f"{own}:net", "--macs", "0.5", "--out", f"{folder}/out", *FAST]
            tried += 1
            code, problem = told([*argv, f"--{flag}={value}"])
            if problem or code == 0:
                failed.append(f"--{flag}={value[:30]!r}: {problem or 'the run came to its end'}")
            shutil.rmtree(Path(folder, "out"), ignore_errors=True)
    return tried, failed


def run_folders(count, seed):
    """Runs whose files were damaged, also with their hashes computed anew, and then resumed.

    Either the run is refused in one sentence, or it goes on; where no hash was computed anew, to the same bits. A run
    that is finished prints its report and does not look at the other files.
    """
    random, failed = Random(seed), []
    with tempfile.TemporaryDirectory() as folder, quick():
        own, run, copy = Path(folder, "own.py"), Path(folder, "run"), Path(folder, "copy")
        own.write_text(NET)
        argv = ["prune", "--model", f"{own}:net", "--macs", "0.5", "--train-epochs", "1", "--epochs", "1"]
        argv += ["--batch-size", "256", "--device", "cpu", "--threads", "1", "--out"]
        assert told([*argv, str(run)]) == (0, "")
        bits = [(run / name).read_bytes() for name in PROMISED]
        for number in range(count):
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(run, copy)
            what, free = _damage(copy, random)
            code, problem = told([*argv, str(copy), "--resume"])
            same = bits == [(copy / name).read_bytes() if (copy / name).exists() else b"" for name in PROMISED]
            if problem or (code == 0 and not same and not free):
                failed.append(f"{number}, {what}: {problem or 'it went on to other bits'}")
    return count, failed


def _damage(run, random):
    """Take back some of the last stages, and damage one file; what, and whether the run may then end otherwise."""
    taken = random.randrange(5)
    for name in ("measured", "recovered", "recalibrated", "pruned", "trained")[:taken]:
        (run / "stages" / f"{name}.json").unlink()
    every = sorted(path for path in run.rglob("*") if path.is_file() and path.name not in (".lock", "report.png"))
    path = random.choice(every)
    content, forged = path.read_bytes(), False
    if path.suffix == ".json" and random.random() < 0.6:
        forged = random.random() < 0.6
        content = dumped(mutated(json.loads(content), random))
        content = sealed(content) if forged else content
    else:
        content = corrupted(content, random)
    path.write_bytes(content)
    return f"{path.relative_to(run)}{', hash computed anew' if forged else ''}", forged or not taken
