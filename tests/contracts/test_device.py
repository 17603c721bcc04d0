"""Devices measure and say what disturbs them; exported files compute what the model computes; bad input is named."""

import dataclasses
import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import secateurs as sct
from secateurs.deploy import Measurement, stopwatch
from secateurs.deploy.builder import Builder
from secateurs.deploy.segment_table import Table
from secateurs.errors import BudgetError, DeviceError


def network(width=16):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1, groups=width),
        nn.Conv2d(width, 2 * width, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * width, 4),
    ).eval()


X = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Odd(nn.Module):
    """Ends in an operator that ONNX has not."""

    def forward(self, x):
        return torch.special.i1(x.mean((2, 3)))


def test_measures_what_takes_longer(monkeypatch):
    """A thousand times the work takes longer; the ratio is that of the medians; the model is not touched."""
    monkeypatch.setattr(stopwatch, "STEADY", 1.0)
    small, large = network(8), network(256)
    large.train()
    found = sct.Device().measure(large, X, reference=small, seconds=0.2)

    assert found.ratio.value > 1
    assert found.low <= found.median <= found.high
    assert large.training
    assert "eager, 1 thread, float32" in str(found)


class TestDisturbance:
    """The clock, the samples and the verdict, from samples that are known."""

    def rows(self, wall, processor, taken, n=40):
        return np.array([[wall, processor, taken]] * n) * np.array([1, 1, 1])

    def test_undisturbed_samples_are_believed(self):
        calm, busy = self.rows(1.0, 1.0, 0), self.rows(9.0, 1.0, 1, 12)
        samples, clock, disturbed = stopwatch._clocked([np.concatenate([calm, busy])], single=True)

        assert (clock, set(samples[0][np.isfinite(samples[0])].tolist())) == ("wall", {1.0})
        assert disturbed == pytest.approx(12 / 52)

    def test_a_busy_machine_is_timed_by_its_processor(self):
        samples, clock, _ = stopwatch._clocked([self.rows(9.0, 1.0, 1)], single=True)

        assert (clock, set(samples[0].tolist())) == ("processor", {1.0})

    def test_a_ratio_is_taken_turn_by_turn(self):
        """A machine that is slow for half of the time slows both, and the ratio is known all the same."""
        slow = np.repeat([1.0, 3.0], 20)
        first, second = stopwatch._summaries([slow, 2 * slow], [1, 1], "wall", 0.0, "")

        assert first.error > 0.1
        assert (second.ratio.value, second.ratio.error) == (2.0, 0.0)
        assert second.steady

    def test_threads_have_no_processor_time_of_their_own(self):
        _, clock, _ = stopwatch._clocked([self.rows(9.0, 18.0, 1)], single=False)

        assert clock == "wall"

    def test_noise_is_measured_longer_and_then_told(self, monkeypatch):
        """A spread that stays wide costs four times the time, and is not steady."""
        ticks = itertools.count()
        monkeypatch.setattr(stopwatch, "_sample", lambda program, n: (1.0 + 4 * (next(ticks) % 2), 1.0, False))
        monkeypatch.setattr(stopwatch, "_repeats", lambda program: 1)
        now = itertools.count()
        monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: float(next(now)))
        (found,) = stopwatch.race([lambda: None], seconds=20, single=True)

        assert found.runs >= 80
        assert not found.steady
        assert "unsteady" in str(found)


def test_a_profile_adds_up():
    """Every layer that runs is there, with its kind, and shares of the whole."""
    found = sct.Device().profile(network(), X, runs=3)

    assert {layer.name for layer in found.layers} == {str(k) for k in range(9)}
    assert found.seconds == pytest.approx(sum(found.by_kind().values()))
    assert "Conv2d" in found.table()


def test_a_profile_is_drawn(tmp_path):
    sct.Device().profile(network(), X, runs=1).picture(tmp_path / "profile.png")

    assert (tmp_path / "profile.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"runtime": "onnx"}, "did you mean 'onnxruntime'"),
        ({"threads": 0}, "threads=0"),
        ({"dtype": "int8"}, "float16"),
        ({"runtime": "onnxruntime", "layout": "channels_last"}, "chooses its own"),
        ({"runtime": "executorch", "layout": "channels_last"}, "chooses its own"),
        ({"runtime": "executorch", "dtype": "float16"}, "not lowered for executorch"),
    ],
)
def test_bad_devices_are_named(given, told):
    with pytest.raises(DeviceError, match=told):
        sct.Device(**given)


@pytest.mark.parametrize(
    ("runtime", "extra"), [("onnxruntime", "export"), ("openvino", "openvino"), ("executorch", "executorch")]
)
def test_a_missing_runtime_names_its_extra(monkeypatch, tmp_path, runtime, extra):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DeviceError, match=rf"secateurs\[{extra}\]"):
        sct.Device(runtime)
    with pytest.raises(DeviceError, match=rf"secateurs\[{extra}\]"):
        sct.export(network(), X, tmp_path / "net", to=runtime.replace("onnxruntime", "onnx"))
    assert not [*tmp_path.iterdir()]


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_missing_gpu_is_named():
    with pytest.raises(DeviceError, match="NVIDIA"):
        sct.Device("cuda")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"latency": 0.5}, "none is named"),
        ({"latency": -1, "device": sct.Device()}, "is no time"),
        ({"macs": 0.5, "device": "onnxruntime"}, "does not measure"),
    ],
)
def test_bad_latency_budgets_are_named(given, told):
    with pytest.raises(BudgetError, match=told):
        sct.Budget(**given)


def test_exact_allocators_refuse_a_time():
    """What cannot measure says so, rather than leaving the time out."""
    model = network()
    budget = sct.Budget(latency=0.5, device=sct.Device())
    with pytest.raises(BudgetError, match=r"only secateurs\.prune measures"):
        sct.plan(sct.trace(model, X), model, criterion=sct.criteria.Magnitude(), budget=budget)


def test_tables_merge_only_on_one_device(tmp_path):
    """A table is read back as it was written; another machine's is refused with what differs."""
    device = sct.Device()
    table = Table(device.key, {"conv": {(8, 8): 1e-3}})
    table.save(tmp_path / "table.json")
    again = Table.of(device, tmp_path / "table.json")
    again.merge(Table(device.key, {"conv": {(8, 16): 2e-3}}))

    assert again.seconds == {"conv": {(8, 8): 1e-3, (8, 16): 2e-3}}
    with pytest.raises(DeviceError, match="threads 1, not 2"):
        Table.of(dataclasses.replace(device, threads=2), tmp_path / "table.json")
    (tmp_path / "table.json").write_text("{}")
    with pytest.raises(DeviceError, match="no table"):
        Table.load(tmp_path / "table.json")


class TestExport:
    """Files that need nothing of this library."""

    @pytest.fixture(scope="class")
    @classmethod
    def pruned(cls):
        return sct.prune(network(), X, method="l2", budget=sct.Budget(macs=0.5)).model

    def test_onnx_computes_the_same_at_any_batch(self, pruned, tmp_path):
        found = sct.export(pruned, X, tmp_path / "net", dynamic_batch=True)
        import onnxruntime as ort

        session = ort.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
        five = torch.rand(5, 3, 8, 8)

        assert found.path == tmp_path / "net.onnx"
        assert found.error < 1e-5
        assert found.bytes == found.path.stat().st_size
        (out,) = session.run(None, {session.get_inputs()[0].name: five.numpy()})
        torch.testing.assert_close(torch.from_numpy(out), pruned(five).detach(), rtol=1e-4, atol=1e-5)

    @pytest.mark.slow
    def test_int8_is_calibrated(self, pruned, tmp_path):
        """Eight bits are near the floats, and the file holds quantised weights."""
        import onnx

        found = sct.export(pruned, X, tmp_path / "net", int8=[(torch.rand(8, 3, 8, 8), torch.zeros(8))])
        kinds = {node.op_type for node in onnx.load(found.path).graph.node}

        assert 0 < found.error < 0.2
        assert {"QuantizeLinear", "DequantizeLinear"} <= kinds

    def test_int8_without_images_is_refused(self, pruned, tmp_path):
        with pytest.raises(DeviceError, match="there are none"):
            sct.export(pruned, X, tmp_path / "net", int8=[])
        assert not [*tmp_path.iterdir()]

    @pytest.mark.slow
    def test_torch_export_runs_without_the_library(self, pruned, tmp_path):
        """A process in which the library cannot be imported loads the file and computes the same."""
        sct.export(pruned, X, tmp_path / "net", to="torch-export")
        torch.save((X, pruned(X).detach()), tmp_path / "pair.pt")
        code = (
            "import sys; sys.modules['secateurs'] = None\n"
            "import torch\n"
            f"x, y = torch.load(r'{tmp_path / 'pair.pt'}')\n"
            f"out = torch.export.load(r'{tmp_path / 'net.pt2'}').module()(x)\n"
            "torch.testing.assert_close(out, y)\n"
        )
        subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=200)

    def test_an_operator_without_onnx_form_is_named(self, tmp_path):
        with pytest.raises(DeviceError, match="bessel_i1"):
            sct.export(Odd().eval(), X, tmp_path / "net")
        assert not [*tmp_path.iterdir()]

    @pytest.mark.parametrize(
        ("given", "told"), [({"to": "onx"}, "did you mean 'onnx'"), ({"to": "torch-export", "int8": []}, "int8")]
    )
    def test_bad_orders_are_named(self, pruned, tmp_path, given, told):
        with pytest.raises(DeviceError, match=told):
            sct.export(pruned, X, tmp_path / "net", **given)

    def test_exchanged_tensors_are_the_pruned_network(self, pruned):
        """The dense export with the pruned tensors computes the pruned network, without a second export."""
        builder = Builder(sct.Device("onnxruntime"), network(), X)
        (out,) = builder.program(pruned).outputs()

        assert builder.exports == 1
        torch.testing.assert_close(out, pruned(X).detach(), rtol=1e-4, atol=1e-5)


def test_peak_memory_is_what_is_alive_together():
    """In place nothing is added; a shortcut keeps its input alive; what was made before the call does not count."""

    class Shortcut(nn.Module):
        def forward(self, x):
            y = x * 2
            return y + (y * 3) * 4

    x = torch.zeros(100)
    chain = nn.Sequential(nn.Linear(100, 100), nn.ReLU(inplace=True), nn.Linear(100, 1))

    assert sct.deploy.activation_memory(chain, x) == sct.deploy.ActivationMemory(written=404, peak=404)
    assert sct.deploy.activation_memory(Shortcut(), x) == sct.deploy.ActivationMemory(written=1600, peak=1200)


def test_written_bytes_are_the_memory_of_a_budget():
    """The two ways of counting agree, before and after pruning."""
    model = network()
    result = sct.prune(model, X, method="l2", budget=sct.Budget(macs=0.5))
    before, after = (sct.deploy.activation_memory(m, X) for m in (model, result.model))

    assert before.written == result.cost_before.memory
    assert after.written == result.cost_after.memory
    assert after.peak < before.peak


def test_a_builder_without_an_export_runs_the_model():
    """Positional and keyword inputs, in a runtime that takes the module itself."""
    model = network()
    for example in (X, (X,), {"input": X}):
        (out,) = Builder(sct.Device("eager"), model, example).program(model).outputs()
        torch.testing.assert_close(out, model(X).detach(), rtol=1e-4, atol=1e-5)


def test_a_measurement_is_a_value():
    """What is told can be written down."""
    found = Measurement(2e-3, 1e-3, 3e-3, 10, 0.0, "wall", 0.01, "eager")

    assert dataclasses.asdict(found)["median"] == 2e-3
    assert found.steady
