"""A sweep is a run folder a trial, the same in sequence and on Ray, and goes on where it was killed."""

import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from secateurs.app.cli import main
from secateurs.app.cli.arguments import chosen_method
from secateurs.app.cli.report_file import finished
from secateurs.app.cli.run_folder import RunFolder
from secateurs.app.leaderboard import read_records
from secateurs.app.sweep import Sweep, in_sequence, read_sweep
from secateurs.app.sweep.jobs import Outcome, finish, jobs, phases
from secateurs.criteria import RDT, Magnitude, Taylor
from secateurs.errors import InputError, RecipeError
from secateurs.methods import Gradual, OrthoReg

NET = """
from torch import nn

def net(in_channels, num_classes):
    return nn.Sequential(
        nn.Conv2d(in_channels, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes),
    )
"""
SHORT = {"train_epochs": 1, "epochs": 1, "images": 128, "batch_size": 64, "calibration_batches": 2, "multiple_of": 1}


@pytest.fixture
def tiny(tmp_path):
    """A recipe that takes seconds."""
    (tmp_path / "net.py").write_text(NET)
    return {"model": f"{tmp_path / 'net.py'}:net", **SHORT}


def written(path, **keys):
    path.write_text(yaml.safe_dump(keys))
    return path


def test_trials_are_the_product_and_controls_follow_the_first_method():
    budgets = ({"macs": 0.5}, {"macs": 0.3})
    sweep = Sweep(methods=("l2", "fpgm"), budgets=budgets, seeds=(0, 1), controls=("scratch", "dense"))
    trials = {trial.name: trial for trial in sweep.trials()}

    assert len(trials) == 2 * 2 * 2 + 2 * 2 + 2
    assert trials["control-scratch-macs0.3-seed1"].like == "l2-macs0.3-seed1"
    assert trials["control-dense-seed1"].like == ""
    assert [len(phase) for phase in phases_of(sweep)] == [10, 4]


def phases_of(sweep):
    return phases(sweep, jobs(sweep, Path("out")))


def test_what_a_sweep_cannot_be_is_said_before_any_work(tmp_path):
    wrong = [
        ({"method": ["l2"]}, RecipeError, "did you mean 'methods'"),
        ({"methods": "l2"}, InputError, r"must be a list; write methods: \[l2\]"),
        ({"controls": ["scrach"]}, RecipeError, "did you mean 'scratch'"),
        ({"budgets": [{"mac": 0.5}]}, RecipeError, "did you mean 'macs'"),
        ({"seeds": [0, 0]}, InputError, "each once"),
        ({"cpus": 0}, InputError, "1 or more"),
    ]
    for keys, error, what in wrong:
        with pytest.raises(error, match=what):
            read_sweep(written(tmp_path / "sweep.yaml", **keys))
    with pytest.raises(InputError, match="would share the folder"):
        Sweep(methods=("l2", "l2")).trials()
    with pytest.raises(RecipeError, match="no row is called 'sfp-r21'"):
        jobs(Sweep(rows=("sfp-r21",)), tmp_path)
    with pytest.raises(InputError, match="unknown key 'epoch'"):
        jobs(Sweep(recipe={"epoch": 3}), tmp_path)
    assert not list(tmp_path.glob("*-*"))


def test_a_trial_that_fails_does_not_stop_the_others(tmp_path):
    def run(job):
        return Outcome(job.name, "no luck" if "fpgm" in job.name else "")

    told = []
    every = jobs(Sweep(methods=("fpgm", "l2"), recipe={"macs": 0.5}), tmp_path)
    outcomes = in_sequence(every, tell=told.append, run=run)

    assert [outcome.failure for outcome in outcomes] == ["no luck", ""]
    assert told == ["1/2 fpgm-seed0", "    failed: no luck", "2/2 l2-seed0"]


def test_rows_are_trials_too(tmp_path):
    (job,) = jobs(Sweep(rows=("foad-vgg16",), quick=True, seeds=(3,)), tmp_path)

    assert (job.name, job.recipe.label, job.recipe.seed) == ("foad-vgg16-seed3", "foad-vgg16 (quick)", 3)
    assert job.recipe.method == "foad"


def test_the_sweep_of_orthoreg_and_its_five_baselines_can_be_run(tmp_path):
    """Each method is made of its options; criteria stand by name in `gradual`."""
    file = Path(__file__).parents[2] / "benchmarks" / "orthoreg_iterative.yaml"
    made = {job.name: chosen_method(job.recipe) for job in jobs(read_sweep(file), tmp_path) if job.recipe.seed == 0}
    methods = [method for name, method in made.items() if not name.startswith("control")]
    criteria = [method.criterion for method in methods if isinstance(method, Gradual)]

    assert isinstance(methods[0], OrthoReg)
    assert criteria == [Taylor(), Taylor(roles=("scale",)), Magnitude(p=1), Magnitude(p=2), RDT()]
    assert len(made) == 6 + 3


def test_a_sweep_in_sequence_makes_runs_a_table_and_goes_on(tmp_path, tiny, capsys):
    file = written(tmp_path / "s.yaml", recipe=tiny, methods=["l2"], budgets=[{"macs": 0.5}], controls=["scratch"])
    out = tmp_path / "out"
    command = ["sweep", str(file), "--out", str(out), "--sequence"]
    assert main(command) == 2
    assert "--trust-code" in capsys.readouterr().err

    assert main([*command, "--trust-code"]) == 0
    records = {record.folder.name: record for record in read_records([out])[0]}
    assert {name: record.control for name, record in records.items()} == {
        "l2-macs0.5-seed0": "l2",
        "control-scratch-macs0.5-seed0": "scratch",
    }
    pruned, scratch = (records[name].report for name in ("l2-macs0.5-seed0", "control-scratch-macs0.5-seed0"))
    assert (scratch.after.macs, scratch.after.params) == (pruned.after.macs, pruned.after.params)
    assert (out / "leaderboard.html").is_file()

    began = time.monotonic()
    assert main([*command, "--trust-code"]) == 0
    assert time.monotonic() - began < 5
    assert "same network from scratch" in (out / "leaderboard.md").read_text()


needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")


@needs_ray
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ray_gives_what_a_sequence_gives_also_when_a_worker_is_killed(tmp_path, tiny):
    """Two trials at a time on a local Ray, one worker killed by its number: all finish, bit for bit as in sequence."""
    keys = dict(recipe={**tiny, "epochs": 12}, methods=["l2", "fpgm"], budgets=[{"macs": 0.5}], seeds=[0, 1])
    file = written(tmp_path / "s.yaml", **keys)
    alone, together = tmp_path / "alone", tmp_path / "together"
    for job in jobs(read_sweep(file), alone):
        assert not finish(job).failure

    command = ["sweep", str(file), "--out", str(together), "--slots", "2", "--trust-code"]
    with subprocess.Popen([sys.executable, "-m", "secateurs", *command]) as running:
        killed = kill_one(together, running)
        assert running.wait(1200) == 0
    assert killed
    for job in jobs(read_sweep(file), together):
        found, expected = (finished(RunFolder(place / job.name)) for place in (together, alone))
        assert found is not None
        assert (found.after.accuracy, found.widths, found.last) == (
            expected.after.accuracy,
            expected.widths,
            expected.last,
        )


def kill_one(out, running):
    """Kill the worker that holds the lock of a run which has begun to fine-tune; give its number."""
    for _ in range(9000):
        for checkpoint in out.glob("*/checkpoints/recovery/last.ckpt"):
            lock = (checkpoint.parents[2] / ".lock").resolve()
            for process in Path("/proc").iterdir():
                if process.name.isdigit() and int(process.name) != running.pid and lock in held_by(process):
                    os.kill(int(process.name), signal.SIGKILL)
                    return int(process.name)
        if running.poll() is not None:
            return None
        time.sleep(0.1)
    return None


def held_by(process):
    """The files that a process has open."""
    try:
        return {file.readlink() for file in (process / "fd").iterdir()}
    except OSError:
        return set()
