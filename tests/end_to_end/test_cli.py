"""The command line, from flags to a run folder: what it writes, how it resumes, and what it refuses."""

import contextlib
import hashlib
import io
import itertools
import json
import multiprocessing
import os
import pickle
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

import secateurs as sct
from secateurs.app import models
from secateurs.app.cli import main, measure
from secateurs.app.cli.arguments import compose
from secateurs.app.cli.demo import RECIPE
from secateurs.app.cli.recipe import Recipe
from secateurs.app.cli.run_folder import RunFolder, check_folder
from secateurs.app.data import load
from secateurs.app.report import Report, picture
from secateurs.app.training import Loaders, evaluate
from secateurs.app.training.module import Classifier
from secateurs.errors import InputError
from secateurs.methods.adaptive.driver import AdaptiveDriver, read_by_modules

NET = """
from torch import nn

def net(in_channels, num_classes):
    def conv(before, after, stride):
        return nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()
    return nn.Sequential(
        *conv(in_channels, 8, 1), *conv(8, 12, 2), *conv(12, 12, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(12, num_classes),
    )

def wide(in_channels, num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64 * in_channels, 100), nn.ReLU(), nn.Linear(100, num_classes))
"""

FAST = ["--train-epochs", "2", "--epochs", "1", "--batch-size", "64", "--device", "cpu", "--threads", "1"]

SLOW = pytest.mark.slow


def read(path):
    return json.loads(path.read_text())


def fresh(own):
    """The dense network of the runs below, as `secateurs.load` wants it."""
    namespace = {}
    exec(own.read_text(), namespace)
    return namespace["net"](1, 10)


@pytest.fixture(scope="session", autouse=True)
def brief():
    """Latency is measured in a twentieth of a second, and pictures are coarse: nobody looks at these."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "SECONDS", 0.05)
        patch.setattr(measure, "RUNS", 1)
        patch.setattr(picture, "DOTS", 20)
        yield


@pytest.fixture(scope="session")
def own(tmp_path_factory):
    """A user's own network in a user's own file."""
    path = tmp_path_factory.mktemp("own") / "own.py"
    path.write_text(NET)
    return path


@pytest.fixture(scope="session")
def prune(own):
    """`secateurs prune` of that network, into a folder."""

    def run(out, *flags, macs="0.5"):
        return main(["prune", "--model", f"{own}:net", "--macs", macs, "--out", str(out), *FAST, *flags])

    return run


@pytest.fixture(scope="session")
def finished(prune, tmp_path_factory):
    """A run from start to end."""
    out = tmp_path_factory.mktemp("runs") / "first"
    assert prune(out) == 0
    return out


def test_the_run_folder_holds_what_was_promised(finished):
    """The model, its plan and recipe, the report and its picture."""
    promised = {"model.safetensors", "plan.json", "recipe.yaml", "report.json", "report.png", "report.html"}

    assert promised <= {path.name for path in finished.iterdir()}
    assert (finished / "report.png").read_bytes().startswith(b"\x89PNG")
    assert not list(finished.rglob("*.partial"))


def test_the_budget_is_met(finished):
    """At most half of the multiply-accumulates remain, in the report and in the plan."""
    report = Report.from_json((finished / "report.json").read_text())

    assert report.after.macs <= 0.5 * report.before.macs
    assert report.after.params < report.before.params
    assert report.after.file_bytes < report.before.file_bytes


def test_the_saved_model_is_the_one_that_was_reported(finished, own):
    """Loaded onto the user's own class, it has the reported test accuracy, parameters and widths."""
    report = Report.from_json((finished / "report.json").read_text())
    model = sct.load(fresh(own), finished)
    test = Loaders(load("digits"), batch_size=64).test_dataloader()

    assert report.after.accuracy == pytest.approx(evaluate(model, test, device="cpu"), abs=1e-6)
    assert report.after.params == sum(p.numel() for p in model.parameters())
    assert {w.name: w.after for w in report.widths}["0"] == model[0].out_channels


@SLOW
def test_an_exported_run_is_as_accurate_as_the_run(finished, tmp_path, capsys):
    """The files of the dense and of the pruned network have the test accuracy that the run reported."""
    assert main(["export", str(finished), "--out", str(tmp_path / "files")]) == 0
    report = Report.from_json((finished / "report.json").read_text())
    figures = read(tmp_path / "files" / "export.json")["files"]

    assert "error to eager" in capsys.readouterr().out
    assert figures["dense"]["accuracy"] == pytest.approx(report.before.accuracy, abs=1e-6)
    assert figures["pruned"]["accuracy"] == pytest.approx(report.after.accuracy, abs=1e-6)
    assert figures["pruned"]["bytes"] < figures["dense"]["bytes"]
    assert max(row["error"] for row in figures.values()) < 1e-4


def test_two_runs_are_compared(finished, tmp_path, capsys):
    """The other run's figures stand beside; the difference is theirs; as JSON, too; what is no run is refused."""
    other = tmp_path / "other"
    shutil.copytree(finished, other)
    report = read(other / "report.json")
    report["after"]["macs"] *= 2
    content = json.dumps(report).encode()
    (other / "report.json").write_bytes(content)
    RunFolder(other).finish("measured", {"report": hashlib.sha256(content).hexdigest()})

    assert main(["compare", str(finished), str(other)]) == 0
    assert re.search(r"MACs .*\+100\.0 %", capsys.readouterr().out)
    assert main(["compare", "--json", str(finished), str(other)]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures[str(other)]["after"]["macs"] == 2 * figures[str(finished)]["after"]["macs"]
    assert main(["compare", str(finished), str(tmp_path)]) == 2
    assert "holds no finished run" in capsys.readouterr().err
    assert main(["compare", str(finished)]) == 2
    assert "secateurs compare RUN RUN" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--to", "onnx"], "name the folder of a finished run first: secateurs export RUN"),
        (["nowhere"], "no finished run"),
        (["RUN", "--to", "torch-export", "--int8"], "--to onnx"),
        (["RUN", "--to", "executorch", "--int8"], "not as executorch"),
        (["RUN", "--to", "tensorrt"], "--to takes"),
    ],
)
def test_bad_exports_are_refused(finished, arguments, told, capsys):
    assert main(["export", *(word.replace("RUN", str(finished)) for word in arguments)]) == 2
    assert told in capsys.readouterr().err


TRAINING = ["--method", "greg1", "--prune-epochs", "2"]


def test_a_method_prunes_while_the_network_trains(prune, own, tmp_path):
    """Same folder, same report; the record of the stage holds its epochs and what was pruned when."""
    assert prune(tmp_path / "out", *TRAINING) == 0
    report = Report.from_json((tmp_path / "out" / "report.json").read_text())
    record = read(tmp_path / "out" / "stages" / "pruned.json")
    model = sct.load(fresh(own), tmp_path / "out")

    assert report.after.macs <= 0.5 * report.before.macs
    assert report.after.params == sum(p.numel() for p in model.parameters())
    assert len(record["history"]) == 2
    assert any("penalty" in event for event in record["events"])


@pytest.mark.slow
def test_filters_that_are_inserted_are_in_the_plan_of_the_run(own, tmp_path, monkeypatch):
    """Adaptive Pruning inserts on the command line too: the run verifies, loads, and resumes to the same bits."""

    def insert(self, seen, pruned):
        if self._rounds == 1:
            self.shrink()
            parents = list(range(8))
            self._run.grow({"3": parents}, "every unit earns")
            self._standing["3"] = self._standing["3"].grown(parents, self._rounds)
            self._groups = {group.name: group for group in read_by_modules(self._run)}

    flags = ["prune", "--model", f"{own}:net", "--macs", "0.6", *FAST, "--method", "adaptive-pruning"]
    flags += ["--method.after", "1", "--prune-epochs", "4", "--multiple-of", "1"]
    monkeypatch.setattr(AdaptiveDriver, "_grow", insert)
    assert main([*flags, "--out", str(tmp_path / "whole")]) == 0
    step, count = Classifier.training_step, iter(range(1, 10_000))

    def stop(*args):
        if next(count) > 2 * 16 + 3 * 16 + 5:
            raise KeyboardInterrupt
        return step(*args)

    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "training_step", stop)
        assert main([*flags, "--out", str(tmp_path / "cut")]) == 130
    assert main([*flags, "--out", str(tmp_path / "cut"), "--resume"]) == 0
    plan = sct.load_plan(tmp_path / "whole")

    assert plan.copies["3"] > 0, plan.keep
    assert read(tmp_path / "whole" / "stages" / "pruned.json")["error"] < 1e-9
    assert sct.load(fresh(own), tmp_path / "whole")[3].out_channels == len(plan.keep["3"])
    for name in ("plan.json", "model.safetensors"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.slow
def test_a_criterion_prunes_in_rounds_to_a_share_of_the_filters(own, tmp_path):
    """With the settings of a paper's run; half of the filters are left, in as many cuts as rounds."""
    out = tmp_path / "out"
    flags = ["--method", "taylor", "--rounds", "3", "--prune-epochs", "2", "--filters", "0.5", "--multiple-of", "1"]
    flags += ["--prune-lr", "0.01", "--schedule", "step", "--step-every", "1", "--ema", "0.9", "--mixup", "0.2"]
    flags += ["--randaugment", "1", "--accumulate", "2", "--channels-last", "true", "--label-smoothing", "0.1"]
    assert main(["prune", "--model", f"{own}:net", "--out", str(out), *FAST, *flags]) == 0
    record = read(out / "stages" / "pruned.json")
    report = Report.from_json((out / "report.json").read_text())

    assert sum(kept for _, kept in record["groups"].values()) == 16
    assert sum("round" in event for event in record["events"]) == 3
    assert report.after.accuracy <= report.after.top5 <= 1


@pytest.mark.slow
def test_pruning_that_was_interrupted_goes_on(prune, tmp_path, monkeypatch):
    """Stopped in the second epoch of pruning, resumed: the bits of the run that was not stopped."""
    step, count = Classifier.training_step, iter(range(1, 10_000))

    def stop(*args):
        if next(count) > 2 * 16 + 16 + 5:  # two epochs of training, one of pruning, a part of the next
            raise KeyboardInterrupt
        return step(*args)

    assert prune(tmp_path / "whole", *TRAINING) == 0
    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "training_step", stop)
        assert prune(tmp_path / "cut", *TRAINING) == 130
    assert (tmp_path / "cut" / "checkpoints" / "pruning" / "last.ckpt").exists()
    assert prune(tmp_path / "cut", *TRAINING, "--resume") == 0

    for name in ("plan.json", "model.safetensors"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_too_few_epochs_to_prune_in_are_refused(prune, tmp_path, capsys):
    """Before any work, with the number that would do."""
    assert prune(tmp_path / "out", "--method", "adaptive-pruning", "--prune-epochs", "1", "--batch-size", "512") == 2
    told = capsys.readouterr().err

    assert re.search(
        r"needs \d+ optimizer steps and the run has 2.*--prune-epochs \d+ or more", told.replace("\n", " ")
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_single_weights_stay_zero_in_the_run_folder(own, tmp_path, capsys):
    """Saved and loaded by the same store; the report says that zeros do not run faster; fine-tuning is refused."""
    flags = ["prune", "--model", f"{own}:net", "--out", str(tmp_path / "out"), *FAST, "--params", "0.5"]
    flags += ["--method", "sfp", "--method.unit", "weight", "--prune-epochs", "1"]
    assert main(flags) == 2
    assert "--epochs 0" in capsys.readouterr().err
    assert main([*flags, "--epochs", "0"]) == 0
    report = Report.from_json((tmp_path / "out" / "report.json").read_text())
    model = sct.load(fresh(own), tmp_path / "out")
    zeros = sum(int((p == 0).sum()) for p in model.parameters() if p.ndim > 1)

    assert zeros >= 0.5 * report.before.params
    assert report.after.macs == report.before.macs
    assert "do not run faster" in report.conditions["zeros"]


def test_stages_are_recorded_in_order(finished):
    """Each with its validation accuracy."""
    report = Report.from_json((finished / "report.json").read_text())

    assert ["trained", "pruned", "recalibrated", "recovered"] == [stage.name for stage in report.stages]
    assert all(0 <= stage.accuracy <= 1 for stage in report.stages)
    assert read(finished / "stages" / "pruned.json")["error"] < 1e-9


def test_the_resolved_recipe_says_everything(finished, own):
    """Every field, paths absolute, the method with its options."""
    keys = yaml.safe_load((finished / "recipe.yaml").read_text())

    assert set(Recipe().as_keys()) == set(keys)
    assert keys["model"] == f"{own}:net"
    assert {"name": "magnitude", "p": 1, "roles": None} == keys["method"]


def test_the_same_recipe_gives_the_same_plan_and_weights(finished, tmp_path):
    """Run again from the run folder's own recipe, bit for bit."""
    flags = ["--config", str(finished / "recipe.yaml"), "--out", str(tmp_path / "again"), "--trust-code"]
    assert main(["prune", *flags]) == 0

    for name in ("plan.json", "model.safetensors"):
        assert (finished / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_one_table_is_printed(finished, prune, capsys):
    """Figures before and after, and the widths; a finished run that is resumed prints it again and touches nothing."""
    before = {path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes()) for path in finished.rglob("*")}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loaders, "test_dataloader", lambda _: pytest.fail("the test split is read again"))
        assert prune(finished, "--resume") == 0
    printed = capsys.readouterr().out

    for row in ("test accuracy", "MACs", "parameters", "activations written", "file size", "latency", "width of 0"):
        assert len(re.findall(rf"^\s*{row}\s", printed, re.MULTILINE)) == 1
    assert before == {p: (p.stat().st_mtime_ns, p.is_file() and p.read_bytes()) for p in finished.rglob("*")}


def test_weights_from_a_file_are_pruned_without_training(prune, own, finished, tmp_path, monkeypatch):
    """The dense network is the file's; the same recovery from the same weights gives the same network."""
    dense = sct.load(fresh(own), finished / "checkpoints" / "trained")
    save_file(dense.state_dict(), tmp_path / "dense.safetensors")

    assert prune(tmp_path / "out", "--weights", str(tmp_path / "dense.safetensors")) == 0

    assert (finished / "plan.json").read_bytes() == (tmp_path / "out" / "plan.json").read_bytes()
    assert not (tmp_path / "out" / "checkpoints" / "training").exists()


@pytest.mark.slow
def test_a_recovery_of_no_epochs_is_the_recalibrated_network(prune, tmp_path):
    """Nothing is fine-tuned, everything else is done."""
    assert prune(tmp_path / "out", "--epochs", "0", "--train-epochs", "1") == 0
    stages = {s.name: s.accuracy for s in Report.from_json((tmp_path / "out" / "report.json").read_text()).stages}

    assert stages["recalibrated"] == stages["recovered"]


def test_reconstruction_and_distillation_by_flags(prune, tmp_path, capsys):
    """The stage has its own name; what cannot be reconstructed, and no part of a loss, are refused before any work."""
    flags = ("--recover", "reconstruct", "--distil", "0.5", "--train-epochs", "1", "--epochs", "1")
    assert prune(tmp_path / "out", *flags) == 0
    report = Report.from_json((tmp_path / "out" / "report.json").read_text())

    assert ["trained", "pruned", "reconstructed", "recovered"] == [stage.name for stage in report.stages]
    assert prune(tmp_path / "no", "--distil", "2") == 2
    assert prune(tmp_path / "no", "--recover", "reconstruct", "--method", "sfp") == 2
    assert "prunes at once" in capsys.readouterr().err


@pytest.mark.parametrize("call", [18, *(pytest.param(n, marks=SLOW) for n in (1, 35))])
def test_a_run_that_fails_anywhere_resumes_to_the_same_end(finished, prune, tmp_path, monkeypatch, call):
    """Stopped at a step of the first epoch, of the second, and of the fine-tuning."""
    step, count = Classifier.training_step, iter(range(1, 10_000))

    def stop(self, batch, index):
        if next(count) == call:
            raise KeyboardInterrupt
        return step(self, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "training_step", stop)
        assert prune(tmp_path / "out") == 130

    assert prune(tmp_path / "out", "--resume") == 0
    for name in ("plan.json", "model.safetensors"):
        assert (finished / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


def test_ctrl_c_says_how_to_go_on(prune, tmp_path, monkeypatch, capsys, ctrl_c):
    """One sentence with the command, exit code 130."""
    monkeypatch.setattr(Classifier, "training_step", lambda *_: signal.raise_signal(signal.SIGINT))

    assert prune(tmp_path / "out") == 130
    assert capsys.readouterr().err.strip().endswith("--resume")


@pytest.mark.slow
def test_a_killed_process_resumes_to_the_same_end(finished, own, tmp_path):
    """SIGKILL as soon as the first epoch is on disk."""
    out = tmp_path / "out"
    command = [sys.executable, "-c", "import sys; from secateurs.app.cli import main; sys.exit(main())"]
    command += ["prune", "--model", f"{own}:net", "--macs", "0.5", "--out", str(out), *FAST]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while not (out / "checkpoints" / "training" / "last.ckpt").exists():
            assert process.poll() is None
            time.sleep(0.005)
        process.kill()

    assert subprocess.run([*command, "--resume"], check=False, stdout=subprocess.DEVNULL).returncode == 0
    for name in ("plan.json", "model.safetensors"):
        assert (finished / name).read_bytes() == (out / name).read_bytes()


def test_what_decides_is_never_the_test_split(prune, tmp_path, monkeypatch):
    """The test split is first read after everything has been saved, and read once for each network."""
    reads = []

    def test_dataloader(self):
        reads.append((tmp_path / "out" / "stages" / "recovered.json").exists())
        return self._loader(self.splits.test)

    monkeypatch.setattr(Loaders, "test_dataloader", test_dataloader)

    assert prune(tmp_path / "out", "--train-epochs", "1") == 0
    assert [True, True, True] == reads  # of the dense network, the picked one, and that of the last epoch


@pytest.mark.parametrize(
    "method",
    ["ccp", *(pytest.param(m, marks=SLOW) for m in ("l2", "fpgm", "taylor", "random", "bn-scale", "foad", "epruner"))],
)
def test_methods_by_name(finished, own, method, tmp_path):
    """Each meets the budget on the trained network."""
    dense = sct.load(fresh(own), finished / "checkpoints" / "trained")
    save_file(dense.state_dict(), tmp_path / "dense.safetensors")
    flags = ["--weights", str(tmp_path / "dense.safetensors"), "--method", method, "--macs", "0.6", "--epochs", "0"]
    flags += ["--model", f"{own}:net", "--device", "cpu", "--out", str(tmp_path / "out")]

    assert main(["prune", *flags]) == 0
    record = read(tmp_path / "out" / "stages" / "pruned.json")
    assert record["after"]["macs"] <= 0.6 * record["before"]["macs"]


@pytest.mark.slow
def test_a_method_of_a_paper_decides_how_much_goes(finished, own, tmp_path, capsys):
    """Without a budget FOAD removes what it finds superfluous, and the title names no budget."""
    dense = sct.load(fresh(own), finished / "checkpoints" / "trained")
    save_file(dense.state_dict(), tmp_path / "dense.safetensors")
    flags = ["--weights", str(tmp_path / "dense.safetensors"), "--method", "foad", "--epochs", "0", "--device", "cpu"]

    assert main(["prune", *flags, "--model", f"{own}:net", "--out", str(tmp_path / "out")]) == 0
    record = read(tmp_path / "out" / "stages" / "pruned.json")
    assert record["after"]["macs"] < record["before"]["macs"]
    assert "pruned by foad" in capsys.readouterr().out


REFUSED = {
    "a method that has its own share": (
        ["--method", "ccp", "--method.keep", "0.5"],
        "both a budget and keep",
    ),
    "unknown flag": (["--mcas", "0.5"], "did you mean '--macs'"),
    "unknown model": (["--model", "resnet21"], "did you mean .*'resnet20'"),
    "unknown data": (["--data", "digit"], "did you mean 'digits'"),
    "unknown method": (["--method", "magnitud"], "did you mean 'magnitude'"),
    "unknown option": (["--method.q", "1"], "did you mean '--method.p'|there is no flag --method.q"),
    "bad option": (["--method.p", "7"], "p=7"),
    "option of a wrong type": (["--method.p", "one"], "--method.p takes a whole number, not 'one'"),
    "flag of a wrong type": (["--epochs", "few"], "--epochs takes a whole number, not 'few'"),
    "device": (["--device", "gpu"], "--device takes auto or cpu or cuda, not 'gpu'"),
    "stray word": (["half"], "'half' belongs to no flag"),
    "budget of zero": (["--macs", "0"], "macs=0"),
    "budget below zero": (["--macs", "-0.5"], "macs=-0.5"),
    "budget above the whole": (["--macs", "1.5"], "macs=1.5"),
    "budget of nan": (["--macs", ".nan"], "macs"),
    "budget out of reach": (["--macs", "10"], "macs"),
    "keep nothing": (["--min-keep", "0"], "min_keep=0"),
    "no batch": (["--batch-size", "0"], "--batch-size 0"),
    "no epochs": (["--train-epochs", "0"], "--train-epochs 0"),
    "learning rate": (["--lr", "0"], "learning rate of 0"),
    "protected nothing": (["--protect", "stem"], "stem"),
    "data root": (["--data", "cifar10:nowhere/at/all"], "nowhere/at/all is not there"),
    "weights not there": (["--weights", "absent.safetensors"], "absent.safetensors: this is not there"),
    "recipe not there": (["--config", "absent.yaml"], "absent.yaml cannot be read"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_in_one_sentence(case, prune, tmp_path, capsys):
    """On standard error, with exit code 2, without a traceback, before anything is made."""
    flags, words = REFUSED[case]

    assert prune(tmp_path / "out", *flags) == 2
    printed = capsys.readouterr()

    assert re.search(words, printed.err), printed.err
    assert (1, "") == (printed.err.count("\n"), printed.out)
    assert not (tmp_path / "out").exists()


def test_no_budget_is_refused(own, tmp_path, capsys):
    """Nothing says what should remain."""
    assert main(["prune", "--model", f"{own}:net", "--out", str(tmp_path / "out")]) == 2
    assert "--macs 0.5" in capsys.readouterr().err


def test_no_folder_is_refused(capsys):
    """Nothing says where to write."""
    assert main(["prune", "--macs", "0.5"]) == 2
    assert "--out FOLDER" in capsys.readouterr().err


def _pickle(path, state):
    torch.save(state, path)


def _truncated(path, state):
    save_file(state, path)
    path.write_bytes(path.read_bytes()[:-100])


def _text(path, state):
    path.write_text("weights")


def _folder(path, state):
    path.mkdir()


def _renamed(path, state):
    save_file({f"module.{name}": tensor for name, tensor in state.items()}, path)


def _wider(path, state):
    save_file(state | {"0.weight": torch.zeros(9, 1, 3, 3)}, path)


def _not_finite(path, state):
    save_file(state | {"0.weight": state["0.weight"].fill_(float("nan"))}, path)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (_pickle, "is a pickle: loading one runs whatever code it holds"),
        (_truncated, "no whole safetensors file"),
        (_text, "no whole safetensors file"),
        (_folder, "is a folder"),
        (_renamed, "'module.' of DataParallel"),
        (_wider, r"0.weight has shape \(9, 1, 3, 3\) there and \(8, 1, 3, 3\) here"),
        (_not_finite, "NaN or infinite"),
    ],
)
def test_weights_of_another_kind_or_shape_are_refused(write, words, prune, own, tmp_path, capsys):
    """The file, what is wrong with it, and what to do."""
    write(tmp_path / "weights.safetensors", fresh(own).state_dict())

    assert prune(tmp_path / "out", "--weights", str(tmp_path / "weights.safetensors")) == 2
    assert re.search(words, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_exists_is_left_alone(prune, tmp_path, capsys):
    """Neither a folder with something in it nor a file is written to; an empty folder is fine."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    (tmp_path / "file").write_text("")

    for out, words in (("mine", "exists and is not empty"), ("file", "is a file")):
        assert prune(tmp_path / out) == 2
        assert words in capsys.readouterr().err
    assert prune(tmp_path / "mine", "--resume") == 2
    assert "no run in it to resume" in capsys.readouterr().err
    assert ["thesis.tex"] == [path.name for path in (tmp_path / "mine").iterdir()]


@pytest.mark.parametrize("resume", [False, True])
def test_a_first_start_that_was_killed_is_begun_again(tmp_path, resume):
    """What it left, a lock and an unfinished recipe, is nobody else's, with --resume and without."""
    (tmp_path / ".lock").touch()
    (tmp_path / f".recipe.yaml.{'0' * 16}.new").touch()

    assert check_folder(tmp_path, resume=resume).recipe() is None
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError):
        check_folder(tmp_path, resume=resume)


def test_a_full_disk_is_noticed_before_any_work(prune, tmp_path, monkeypatch, capsys):
    """With both numbers."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 2**20))

    assert prune(tmp_path / "out") == 2
    assert "has 1 MiB left" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_disk_that_fills_up_is_told_and_the_run_resumes(prune, finished, tmp_path, monkeypatch, capsys):
    """One sentence, exit code 1; what was finished is kept."""

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        assert prune(tmp_path / "out") == 1
    assert "No space left on device" in capsys.readouterr().err

    assert prune(tmp_path / "out", "--resume") == 0
    assert (finished / "plan.json").read_bytes() == (tmp_path / "out" / "plan.json").read_bytes()


def test_a_folder_in_use_is_refused(finished, prune, tmp_path, capsys):
    """Two processes in one folder would overwrite each other's checkpoints."""
    fcntl = pytest.importorskip("fcntl", reason="locks are POSIX")
    run = copied(finished, tmp_path, "measured")
    with (run / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert prune(run, "--resume") == 2
    assert "another process works in" in capsys.readouterr().err


def test_resuming_with_other_flags_is_refused(finished, prune, capsys):
    """A run stays what it was; flags that repeat it are fine."""
    assert prune(finished, "--resume", "--seed", "1") == 2
    assert "has seed 0, and 1 was asked for" in capsys.readouterr().err
    assert main(["prune", "--out", str(finished), "--resume", "--trust-code"]) == 0


def test_debug_shows_the_traceback(prune, tmp_path, capsys):
    """For whoever wants it."""
    assert prune(tmp_path / "out", "--debug", "--lr", "0") == 2
    assert "Traceback" in capsys.readouterr().err


def test_flags_win_over_a_recipe_file(own, tmp_path, capsys):
    """The file gives what no flag gives; keys may be written with dashes."""
    recipe = {"model": f"{own}:net", "macs": 0.5, "batch-size": 0, "method": {"name": "l2", "p": 1}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(recipe))
    flags = ["prune", "--config", str(tmp_path / "run.yaml"), "--out", str(tmp_path / "out"), "--trust-code"]

    assert main(flags) == 2
    assert "--batch-size 0" in capsys.readouterr().err
    assert main([*flags, "--batch-size", "-1"]) == 2
    assert "--batch-size -1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("maccs: 0.5", "unknown key 'maccs'; did you mean 'macs'"),
        ("macs: half", "macs of the recipe .* takes a share such as 0.5 or 50%"),
        ("epochs: many", "epochs of the recipe .* takes a whole number, not 'many'"),
        ("decay_norms: 3", "decay_norms of the recipe .* takes true or false"),
        ("method: {p: 1}", "has no name"),
        ("method: {name: magnitude, power: 1}", "has no option 'power'"),
        ("[1, 2", "is not YAML"),
        ("just words", "holds str"),
    ],
)
def test_a_bad_recipe_file_is_refused(tmp_path, capsys, text, words):
    """By the name of the file and the key."""
    (tmp_path / "run.yaml").write_text(text)

    assert main(["prune", "--config", str(tmp_path / "run.yaml"), "--out", str(tmp_path / "out")]) == 2
    assert re.search(words, capsys.readouterr().err)


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["--help"],
        ["prune", "--help"],
        ["demo", "--help"],
        ["export", "--help"],
        ["inspect", "--help"],
        ["compare", "--help"],
    ],
)
def test_help(command, capsys):
    """Every command explains itself on standard output."""
    assert main(command) == 0
    printed = capsys.readouterr()

    assert printed.out.startswith("usage: secateurs")
    assert printed.err == ""
    assert max(map(len, printed.out.splitlines())) <= 120


def test_help_names_every_flag_of_a_recipe_and_the_options_of_the_method(capsys):
    """Fields and flags are the same list."""
    assert main(["prune", "--method", "taylor", "--help"]) == 0
    printed = capsys.readouterr().out

    for name in Recipe().as_keys():
        assert f"--{name.replace('_', '-')} " in printed
    assert "--method.roles" in printed
    assert "--method.p " not in printed


def test_version_and_unknown_commands(capsys):
    """The version is the library's; a slip is answered with the near command."""
    assert main(["--version"]) == 0
    assert f"secateurs {sct.__version__}\n" == capsys.readouterr().out
    assert main(["prun"]) == 2
    assert "did you mean 'prune'" in capsys.readouterr().err


def test_inspect_shows_groups_protection_and_cost(capsys):
    """Every group by name, each reason once, and the three costs."""
    assert main(["inspect", "resnet20"]) == 0
    printed = capsys.readouterr().out

    for name in ("conv1", "layer1.0.conv1", "layer3.2.conv1"):
        assert len(re.findall(rf"^ {re.escape(name)} ", printed, re.MULTILINE)) == 1
    assert "It is an output of the model" in printed
    assert "269.7 k parameters" in printed


def test_inspect_says_the_same_as_json(capsys):
    """All of it, where the tables shorten."""
    assert main(["inspect", "resnet20", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)

    graph = sct.trace(models.build("resnet20", in_channels=3, num_classes=10).eval(), torch.zeros(1, 3, 32, 32))
    assert [(g["name"], g["units"], g["exact"]) for g in found["groups"]] == [
        (g.name, g.units, g.exact) for g in graph.groups
    ]
    assert (found["macs"], found["params"], found["memory"]) == (
        graph.cost().macs,
        graph.cost().params,
        graph.cost().memory,
    )
    assert len(found["protected"]) == len(graph.protected) > 0
    one_less = graph.widths - (torch.arange(len(graph.groups)) == 0).numpy()
    assert found["groups"][0]["macs_a_unit"] == graph.cost().macs - int(graph.costs.at(one_less)[0])
    channels = [obstacle["channels"] for obstacle in found["obstacles"]]
    assert channels == sorted(channels, reverse=True)
    assert [o["reason"] for o in found["obstacles"]] == [o.reason for o in graph.obstacles]


def test_inspect_explains_a_layer(capsys):
    """What goes with two channels; the same as JSON; and what an answer is asked for."""
    assert main(["inspect", "resnet20", "--explain", "layer1.0.conv1:3,5-6", "linear"]) == 0
    printed = capsys.readouterr().out
    assert "layer1.0.conv2.weight dim 1: 3, 5, 6" in printed
    assert "Never removed: linear.weight dim 0: 0-9\n     because it is an output of the model" in printed

    assert main(["inspect", "resnet20", "--explain", "layer1.0.conv1:3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["units"] == {"layer1.0.conv1": [3]}


def test_inspect_follows_its_flags(own, capsys):
    """One's own network, on one's own input, with a module protected."""
    assert main(["inspect", f"{own}:net", "--input", "1x1x8x8", "--classes", "3", "--protect", "0"]) == 0
    printed = capsys.readouterr().out

    assert "2 groups" in printed or "1 groups" in printed
    assert not re.search(r"^ 0 ", printed, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "name the network first"),
        (["resnet2"], "no model is called"),
        (["resnet20", "--input", "3x-2"], "is no shape"),
        (["resnet20", "--input", "1x4"], "does not run|shape"),
        (["resnet20", "--classes", "0"], "--classes 0"),
        (["resnet20", "--protect", "stem"], "stem"),
        (["resnet20", "--explain", "stem"], "'stem' is no module"),
        (["resnet20", "--explain", "conv1:a"], "names no channels"),
        (["resnet20", "--explain", "conv1:16"], "channels 0 to 15"),
        (["resnet20", "--macs", "1"], "there is no flag --macs"),
    ],
)
def test_bad_questions_are_refused(arguments, words, capsys):
    """Like bad runs."""
    assert main(["inspect", *arguments]) in (1, 2)
    assert re.search(words, capsys.readouterr().err)


def test_demo_takes_few_flags(tmp_path, capsys):
    """It is a recipe of its own; what it does not offer is not silently accepted."""
    assert main(["demo", "--model", "resnet56", "--out", str(tmp_path / "out")]) == 2
    assert "there is no flag --model" in capsys.readouterr().err
    assert ("resnet20", "digits", 0.5) == (RECIPE.model, RECIPE.data, RECIPE.macs)


@pytest.mark.slow
def test_demo_recovers_its_accuracy(tmp_path):
    """Within a point of the network before, on the test split; half of the MACs; one seed here."""
    assert main(["demo", "--out", str(tmp_path / "demo")]) == 0
    report = Report.from_json((tmp_path / "demo" / "report.json").read_text())

    assert report.before.accuracy > 0.97
    assert report.after.accuracy > report.before.accuracy - 0.015
    assert report.after.macs <= 0.5 * report.before.macs


@pytest.mark.slow
def test_published_resnet20_is_pruned(data_root, tmp_path):
    """The checkpoint of He et al.'s network on CIFAR-10, one epoch-less run."""
    if not (data_root / "cifar-10-batches-py").is_dir():
        pytest.skip(f"needs cifar-10-batches-py under {data_root}")
    weights = data_root / "checkpoints" / "cifar10_resnet20.safetensors"
    flags = ["--weights", str(weights), "--data", f"cifar10:{data_root}", "--macs", "0.9", "--epochs", "0"]

    assert main(["prune", *flags, "--calibration-batches", "4", "--out", str(tmp_path / "out")]) == 0
    report = Report.from_json((tmp_path / "out" / "report.json").read_text())
    assert report.before.accuracy == pytest.approx(0.9173, abs=5e-5)


@pytest.mark.slow
def test_the_command_is_installed():
    """`secateurs` on the path is this `main`."""
    script = shutil.which("secateurs", path=os.path.dirname(sys.executable))  # noqa: PTH120
    if script is None:
        pytest.skip("the package is not installed in this environment")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)

    assert f"secateurs {sct.__version__}\n" == done.stdout


EVIL = """
from pathlib import Path
Path({!r}).touch()
from torch import nn
def net(in_channels, num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Linear(8, num_classes))
"""


@pytest.fixture
def stranger(tmp_path):
    """A recipe, and a run folder, that name a Python file; and what the file leaves when it is run."""
    canary = tmp_path / "canary"
    (tmp_path / "evil.py").write_text(EVIL.format(str(canary)))
    keys = {"model": f"{tmp_path / 'evil.py'}:net", "macs": 0.5, "train_epochs": 1, "epochs": 0, "device": "cpu"}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(keys))
    RunFolder(tmp_path / "run").put_recipe(compose(Recipe(), keys))
    return tmp_path, canary


@pytest.mark.parametrize("how", [["--config", "recipe.yaml", "--out", "new"], ["--out", "run", "--resume"]])
def test_code_that_only_a_file_names_is_not_run(stranger, how, monkeypatch, capsys):
    """Neither a recipe's nor a run folder's, until the command line names it too, or trusts such files."""
    folder, canary = stranger
    monkeypatch.chdir(folder)
    assert main(["prune", *how]) == 2
    assert "names code to run" in capsys.readouterr().err
    assert main(["prune", *how, "--model", "other.py:net"]) == 2
    assert ("names code to run" in capsys.readouterr().err) == ("--resume" in how)  # beside --config, flags replace it
    assert not canary.exists()
    assert not (folder / "new").exists()

    assert main(["prune", *how, "--model", "evil.py:net", "--macs", "0"]) == 2
    assert main(["prune", *how, "--model", "evil.py:net", "--data", "nothing"]) == 2
    if "--config" in how:
        assert main(["prune", *how, "--trust-code", "--protect", "nothing"]) == 2
        assert canary.exists()


def copied(finished, tmp_path, *gone):
    """A run as it was before some of its stages."""
    shutil.copytree(finished, tmp_path / "run")
    for name in gone:
        (tmp_path / "run" / "stages" / f"{name}.json").unlink()
    return tmp_path / "run"


@pytest.mark.parametrize("place", [".lock", "stages/measured.json", "checkpoints/training/last.ckpt", "checkpoints"])
def test_nothing_is_written_through_a_link(finished, prune, tmp_path, capsys, place):
    """What a planted link points to stays as it is, to the byte."""
    run, mine = copied(finished, tmp_path, "measured"), tmp_path / "mine"
    target = run / place
    if target.is_dir():
        shutil.move(target, mine)
    else:
        mine.write_text("mine")
        target.unlink(missing_ok=True)
    target.symlink_to(mine)
    before = [path.stat().st_mtime_ns for path in (mine, *mine.rglob("*"))]

    assert prune(run, "--resume") == 2
    assert "is a link" in capsys.readouterr().err
    assert before == [path.stat().st_mtime_ns for path in (mine, *mine.rglob("*"))]


@pytest.mark.slow
def test_files_of_the_run_itself_replace_links(finished, prune, tmp_path):
    """The report is put in the place of a planted link, not into what it points to."""
    run, mine = copied(finished, tmp_path, "measured"), tmp_path / "mine"
    mine.write_text("mine")
    (run / "report.json").unlink()
    (run / "report.json").symlink_to(mine)

    assert prune(run, "--resume") == 0
    assert mine.read_text() == "mine"
    assert Report.from_json((run / "report.json").read_text())


DAMAGE = {
    "cut": lambda content: content[: len(content) // 2],
    "empty": lambda _: b"",
    "one bit": lambda content: content[:-9] + bytes([content[-9] ^ 1]) + content[-8:],
    "other JSON": lambda _: b"[]",
    "nested": lambda _: b"[" * 100_000,
}


@pytest.mark.parametrize("name", ["recipe.yaml", "stages/trained.json", "stages/pruned.json", "report.json"])
@pytest.mark.parametrize("how", DAMAGE)
def test_damaged_files_of_a_run_are_refused_in_one_sentence(finished, prune, tmp_path, capsys, name, how):
    """By name, with exit code 2; what is there stays."""
    run = copied(finished, tmp_path, *(["measured"] if name.startswith("stages") else []))
    (run / name).write_bytes(DAMAGE[how]((run / name).read_bytes()))

    assert prune(run, "--resume") == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert (run / name).name in told


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_checkpoint_is_never_gone_on_from(finished, prune, tmp_path, capsys, how):
    """A flipped bit in a weight would load without a word; the hash beside the file tells."""
    run = copied(finished, tmp_path, "recovered", "measured")
    checkpoint = run / "checkpoints" / "recovery" / "last.ckpt"
    checkpoint.write_bytes(DAMAGE[how](checkpoint.read_bytes()))

    assert prune(run, "--resume") == 2
    assert "last.ckpt" in capsys.readouterr().err


class Canary:
    """What makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return (os.mkdir, (self.folder,))


@pytest.mark.parametrize("write", [torch.save, lambda state, path: path.write_bytes(pickle.dumps(state))])
def test_code_in_a_checkpoint_with_its_hash_computed_anew_is_not_run(finished, prune, tmp_path, capsys, write):
    """Refused in one sentence, in PyTorch's own format or as a plain pickle, and the run can be looked at."""
    run = copied(finished, tmp_path, "recovered", "measured")
    checkpoint = run / "checkpoints" / "recovery" / "last.ckpt"
    write({"state_dict": Canary(str(tmp_path / "executed"))}, checkpoint)
    hashed = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    checkpoint.with_name("last.ckpt.sha256").write_text(f"{hashed}  last.ckpt\n")

    assert prune(run, "--resume") == 2
    told = capsys.readouterr().err
    assert "last.ckpt cannot be gone on from: it is no checkpoint, or holds more than numbers" in told
    assert told.count("\n") == 1
    assert not (tmp_path / "executed").exists()


def test_brackets_in_names_are_no_markup(prune, finished, tmp_path, capsys):
    """A folder may be called what it likes, and is printed as it is called."""
    run = tmp_path / "a[/b]c [bold]" / ":warning:"
    shutil.copytree(finished, run)

    assert prune(run, "--resume") == 0
    assert str(run) in capsys.readouterr().out.replace("\n", "")


OUT_OF_RANGE = {
    "seed": ["--seed", "4294967296"],
    "threads": ["--threads", "1000000"],
    "threads below": ["--threads", "-1"],
    "macs of one": ["--macs", "1"],
    "image size": ["--image-size", "100000000"],
    "folder": ["--out", "x" * 5000],
}


@pytest.mark.parametrize("case", OUT_OF_RANGE)
def test_numbers_out_of_range_are_refused(case, prune, tmp_path, capsys):
    """Before any work, in one sentence that names the flag."""
    flags = OUT_OF_RANGE[case]
    assert prune(tmp_path / "out", *flags) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert flags[0] in told
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("body", "words"), [("sys.exit(0)", "SystemExit"), ("1 / 0", "ZeroDivisionError")])
def test_a_model_file_that_leaves_is_told(body, words, tmp_path, capsys):
    """`sys.exit(0)` in it is no success."""
    (tmp_path / "bad.py").write_text(f"import sys\ndef net(): {body}\n")
    flags = ["--model", f"{tmp_path / 'bad.py'}:net", "--macs", "0.5", "--out", str(tmp_path / "out")]

    assert main(["prune", *flags]) == 2
    assert words in capsys.readouterr().err


def test_a_model_without_parameters_is_refused_before_any_work(tmp_path, capsys):
    """There is nothing to train, and nothing to remove."""
    (tmp_path / "empty.py").write_text("from torch import nn\ndef net(): return nn.Flatten()\n")
    flags = ["--model", f"{tmp_path / 'empty.py'}:net", "--macs", "0.5", "--out", str(tmp_path / "out")]

    assert main(["prune", *flags]) == 2
    assert "has no parameters to train" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_network_that_leaves_in_its_forward_is_told(prune, tmp_path, monkeypatch, capsys):
    """`sys.exit(0)` in the middle of the work is a failure of the work, whatever code it names."""
    monkeypatch.setattr(Classifier, "training_step", lambda *_: sys.exit(0))

    assert prune(tmp_path / "out") == 1
    assert "called sys.exit(0)" in capsys.readouterr().err


def test_what_fails_during_the_work_is_one_sentence_and_exit_code_1(prune, tmp_path, monkeypatch, capsys):
    """Also an error of torch's, and also an input that turns out to be bad only then."""
    for error in (RuntimeError("DataLoader worker (pid 1) is killed"), MemoryError(), InputError("diverged")):

        def fail(*_, error=error):
            raise error

        monkeypatch.setattr(Classifier, "training_step", fail)
        assert prune(tmp_path / type(error).__name__) == 1
        assert capsys.readouterr().err.count("\n") == 1


def test_images_that_came_since_are_noticed(prune, tmp_path, monkeypatch, capsys, ctrl_c):
    """The parts are drawn from all images, so that those to learn from might become those to test on."""
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(10):
            Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "photos" / name / f"{number}.png")
    flags = ["--data", f"imagefolder:{tmp_path / 'photos'}", "--image-size", "8"]
    monkeypatch.setattr(Classifier, "training_step", lambda *_: signal.raise_signal(signal.SIGINT))
    assert prune(tmp_path / "out", *flags) == 130
    assert prune(tmp_path / "out", *flags, "--resume") == 130

    shutil.copy(tmp_path / "photos" / "cat" / "1.png", tmp_path / "photos" / "cat" / "new.png")
    capsys.readouterr()
    assert prune(tmp_path / "out", *flags, "--resume") == 2
    assert "the images in cat are not those that this run began with: 10 images" in capsys.readouterr().err


def killed_worker():
    """A process that reads images is killed, as by a system that is short of memory."""
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    time.sleep(30)  # until the training process hears of it


def no_memory():
    """Memory is short: the process may take no more than it has."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**27, resource.getrlimit(resource.RLIMIT_AS)[1]))
    torch.empty(2**30)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strike", "words"), [(killed_worker, "reads images was killed"), (no_memory, "memory is short")]
)
def test_what_the_system_does_to_a_run_is_one_sentence_and_the_run_resumes(own, prune, tmp_path, strike, words):
    """Exit code 1, and then the bits that it would have ended with."""
    step, steps = Classifier.training_step, itertools.count(1)

    def struck(self, batch, index):
        if next(steps) == 30:  # in the second epoch
            strike()
        return step(self, batch, index)

    def work():
        with (tmp_path / "told").open("w") as told, contextlib.redirect_stderr(told):
            return prune(tmp_path / "out", "--workers", "1")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classifier, "training_step", struck)
        process = multiprocessing.get_context("fork").Process(target=lambda: os._exit(work()))
        process.start()
        process.join()

    assert process.exitcode == 1
    told = (tmp_path / "told").read_text()
    assert told.count("\n") == 1
    assert words in told
    for out in ("out", "whole"):
        assert prune(tmp_path / out, "--workers", "1", "--resume") == 0
    for name in ("plan.json", "model.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


def test_a_terminal_that_shows_only_ascii_shows_the_rest_as_question_marks(finished, prune, tmp_path, monkeypatch):
    """The table of a run has letters of other scripts; printing it fails nothing."""
    run = shutil.copytree(finished, tmp_path / "run é ✓")
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)

    assert prune(run, "--resume") == 0
    terminal.flush()
    assert b"run ? ?" in terminal.buffer.getvalue().replace(b"\n", b"")


def test_weights_of_another_type_are_refused(prune, own, tmp_path, capsys):
    """Casting whole numbers or doubles would change them without a word."""
    for dtype in (torch.int32, torch.bool, torch.float64):
        state = {name: t.to(dtype) for name, t in fresh(own).state_dict().items()}
        save_file(state, tmp_path / "weights.safetensors")
        assert prune(tmp_path / "out", "--weights", str(tmp_path / "weights.safetensors")) == 2
        assert "would not come over unchanged" in capsys.readouterr().err
