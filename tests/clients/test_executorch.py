"""ExecuTorch: programs compute what the network computes, are measured, hold a budget of time, and need no library."""

import json
import subprocess
import sys

import pytest
import torch
from tests.contracts.test_device import Odd, X, network
from tests.end_to_end.test_cli import NET
from torch import nn

import secateurs as sct
from secateurs.app.cli import main, measure
from secateurs.app.report import picture
from secateurs.deploy import Loaded, segment_table, stopwatch
from secateurs.deploy.segment_table import Table, _abreast
from secateurs.deploy.segments import Segment
from secateurs.errors import DeviceError

pytest.importorskip("executorch")
pytestmark = [pytest.mark.clients]
IMAGE = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))


class Summed(nn.Module):
    """Ends in an operator that XNNPACK has not, and ExecuTorch has."""

    def __init__(self):
        super().__init__()
        self.inner = network()

    def forward(self, x):
        return torch.cumsum(self.inner(x), 1)


@pytest.fixture(scope="module")
def device():
    return sct.Device("executorch")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A pruned network and its file for up to 20 samples."""
    pruned = sct.prune(network(), X, method="l2", budget=sct.Budget(macs=0.5)).model
    path = tmp_path_factory.mktemp("files") / "net"
    return pruned, sct.export(pruned, X, path, to="executorch", dynamic_batch=20)


def test_a_file_computes_the_same_up_to_its_largest_batch(exported):
    """Also beyond 15 samples, where torch chooses another convolution; more than the largest are refused with it."""
    pruned, found = exported
    loaded = Loaded(found.path)

    assert (found.path.suffix, found.batch, found.outside) == (".pte", 20, ())
    assert found.error < 1e-5
    assert found.bytes == found.path.stat().st_size
    assert "up to 20 samples" in str(found)
    for size in (1, 5, 20):
        x = torch.rand(size, 3, 8, 8)
        torch.testing.assert_close(loaded(x), pruned(x).detach(), rtol=1e-4, atol=1e-5)
    with pytest.raises(DeviceError, match=r"\[21, 3, 8, 8\].*made for \[20, 3, 8, 8\]"):
        loaded(torch.rand(21, 3, 8, 8))


def test_a_file_runs_without_the_library(exported, tmp_path):
    """A process in which the library cannot be imported loads the file and computes the same."""
    pruned, found = exported
    torch.save((X, pruned(X).detach()), tmp_path / "pair.pt")
    code = (
        "import sys; sys.modules['secateurs'] = None\n"
        "import torch\n"
        "from executorch.runtime import Runtime\n"
        f"x, y = torch.load(r'{tmp_path / 'pair.pt'}')\n"
        f"method = Runtime.get().load_program(r'{found.path}').load_method('forward')\n"
        "torch.testing.assert_close(method.execute([x])[0], y, rtol=1e-4, atol=1e-5)\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=300)


def test_fewer_channels_take_less_time(device):
    """A quarter of the channels, measured beside the whole."""
    found = device.measure(network(32), IMAGE, reference=network(128), seconds=0.3)

    assert found.ratio.value < 0.6
    assert "executorch, 1 thread, float32" in str(found)


def test_programs_of_other_thread_counts_live_side_by_side(device):
    """The runtime's one pool of threads is resized between them, and their methods hold it."""
    model = network()
    programs = [device.compile(model, X), sct.Device("executorch", threads=2).compile(model, X)]
    for program in 3 * programs:
        torch.testing.assert_close(program.outputs()[0], model(X).detach(), rtol=1e-4, atol=1e-5)


def test_a_profile_names_kernels_and_what_xnnpack_leaves(device, tmp_path):
    """Three convolutions or products and the linear layer are kernels; the operator outside is told by the file too."""
    model = Summed().eval()
    kinds = [layer.kind for layer in device.profile(model, X, runs=3).layers]

    assert sum(kind in ("Convolution", "Fully Connected") for kind in kinds) == 4
    assert kinds.count("cumsum") == 1
    assert sct.export(model, X, tmp_path / "net", to="executorch").outside == ("aten.cumsum",)


def test_segments_in_one_program_are_told_apart(device):
    """Each has its own time in the order given: forty times the work between two small ones takes the longest."""
    narrow = Segment(8, 8, (14, 14), (3, 3), (1, 1), (1, 1), (1, 1))
    wide, depthwise = narrow.at(64, 64), Segment(8, 8, (14, 14), (3, 3), (1, 1), (1, 1), (1, 1), 8)
    times = _abreast(device, [narrow, wide, depthwise, Segment(16, 16, (4,))])

    assert len(times) == 4
    assert max(times) == times[1] > 5 * times[0] > 0


def test_segments_that_cannot_be_told_apart_are_measured_one_by_one(device, monkeypatch):
    """Where the kernels are not one for each, nothing is guessed; no segment is measured twice."""
    monkeypatch.setattr(segment_table, "_own", lambda nodes: [])
    narrow = Segment(8, 8, (14, 14), (3, 3), (1, 1), (1, 1), (1, 1))
    table = Table.of(device)

    assert table.measure(device, [narrow, narrow.at(16, 16), narrow]) == 2
    assert table.measure(device, [narrow]) == 0
    assert 0 < table.seconds[narrow.family][8, 8] < table.seconds[narrow.family][16, 16]


def test_a_time_is_a_budget(device, monkeypatch):
    """Met as closely as the machine's other work lets a time be known."""
    monkeypatch.setattr(stopwatch, "STEADY", 1.0)
    result = sct.prune(network(64), IMAGE, method="l2", budget=sct.Budget(latency=0.6, device=device))

    assert 0.5 < result.timing.ratio < 0.65
    assert result.timing.predicted == pytest.approx(result.timing.pruned.median, rel=0.5)
    assert result.cost_after.macs < result.cost_before.macs


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"int8": []}, "not as executorch"),
        ({"dynamic_batch": 1}, "example's 2"),
        ({"device": sct.Device("eager", dtype="bfloat16")}, "executorch files are float32"),
    ],
)
def test_bad_orders_are_named(tmp_path, given, told):
    with pytest.raises(DeviceError, match=told):
        sct.export(network(), X, tmp_path / "net", to="executorch", **given)
    assert not [*tmp_path.iterdir()]


def test_an_operator_without_a_kernel_is_named(tmp_path):
    with pytest.raises(DeviceError, match=r"no kernel for aten\.special_i1"):
        sct.export(Odd().eval(), X, tmp_path / "net", to="executorch")
    assert not [*tmp_path.iterdir()]


def test_a_file_that_is_none_is_refused(tmp_path):
    (tmp_path / "net.pte").write_bytes(b"nothing of the kind")
    with pytest.raises(DeviceError, match=r"cannot load .*net\.pte"):
        Loaded(tmp_path / "net.pte")


def test_a_run_is_exported(tmp_path, capsys, monkeypatch):
    """From the command line: the dense and the pruned network, as eager computes them, up to the batch of the run."""
    monkeypatch.setattr(measure, "SECONDS", 0.05)
    monkeypatch.setattr(measure, "RUNS", 1)
    monkeypatch.setattr(picture, "DOTS", 20)
    run, own = tmp_path / "run", tmp_path / "own.py"
    own.write_text(NET)
    few = ["--images", "128", "--train-epochs", "1", "--epochs", "0", "--batch-size", "96", "--device", "cpu"]
    assert main(["prune", "--model", f"{own}:net", "--macs", "0.5", "--threads", "1", "--out", str(run), *few]) == 0
    assert main(["export", str(run), "--to", "executorch"]) == 0
    files = json.loads((run / "export" / "export.json").read_text())["files"]

    assert "executorch, 1 thread" in capsys.readouterr().out
    assert {(file["batch"], file["error"] < 1e-5) for file in files.values()} == {(96, True)}
    assert files["pruned"]["bytes"] < files["dense"]["bytes"]
