"""Reports and measurements: the figures, the table, the picture, and the time that a forward pass takes."""

import json
import time
from dataclasses import replace
from io import StringIO

import pytest
import torch
from rich.console import Console
from torch import nn

from secateurs.app.bench.timing import latency
from secateurs.app.report import Figures, LayerWidth, Report, Stage, draw, layer_widths, table
from secateurs.errors import InputError

BEFORE = Figures(0.9889, 40_551_040, 269_722, 2_654_504, 1_093_136, 0.0041)
AFTER = Figures(0.9861, 20_275_520, 140_000, 1_327_252, 546_568, 0.0031)
WIDTHS = (LayerWidth("conv1", 16, 9), LayerWidth("linear", 10, 10))
STAGES = (Stage("trained", 0.99, 40.0), Stage("pruned", 0.31), Stage("recovered", 0.985, 20.0))


@pytest.fixture
def report():
    return Report("resnet20 on digits", BEFORE, AFTER, WIDTHS, STAGES, {"seed": "0"})


def printed(report):
    console = Console(width=100, file=StringIO())
    console.print(table(report))
    return console.file.getvalue()


def test_json_and_back(report):
    """Nothing is lost; another format version is refused."""
    assert report == Report.from_json(report.to_json())

    changed = json.dumps(json.loads(report.to_json()) | {"format": 99})
    with pytest.raises(InputError, match="format 99"):
        Report.from_json(changed)


def test_the_table_has_each_figure_before_and_after(report):
    """In units that people read, with what remains."""
    text = " ".join(printed(report).split())

    assert "test accuracy 98.89 % 98.61 % -0.28 points" in text
    assert "MACs 40.55 M 20.28 M 50.0 %" in text
    assert "parameters 269.7 k 140.0 k 51.9 %" in text
    assert "activation memory 2.53 MiB 1.27 MiB 50.0 %" in text
    assert "file size 1.04 MiB 533.8 KiB 50.0 %" in text
    assert "latency 4.10 ms 3.10 ms 75.6 %" in text
    assert "width of conv1 16 9" in text


def test_a_long_table_names_those_that_changed_and_says_how_many_are_left_out(report):
    """Sixty layers, forty of them pruned: twenty-four rows and a count."""
    widths = tuple(LayerWidth(f"layer{k}", 64, 64 if k % 3 == 0 else 40) for k in range(60))
    text = printed(replace(report, widths=widths))

    assert "layer0 " not in text
    assert 24 == text.count("width of")
    assert "and 36 more layers in report.json" in text


@pytest.mark.parametrize("layers", [0, 1, 30, 200])
def test_the_picture_is_drawn_for_any_number_of_layers(report, layers):
    """As PNG, and drawn from this report: another one gives another picture."""
    widths = tuple(LayerWidth(f"layer{k}", 64, 40) for k in range(layers))

    first, second = draw(replace(report, widths=widths)), draw(replace(report, widths=widths, after=BEFORE))

    assert first.startswith(b"\x89PNG")
    assert first != second


def test_the_picture_touches_no_global_state(report):
    """Neither pyplot's figures nor the style of the process."""
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    draw(report)

    assert before == dict(mpl.rcParams)


def test_layer_widths_are_those_of_convolutions_and_linear_layers():
    """In the order of registration; norms and activations have none."""

    def net(width):
        return nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Linear(width, 2))

    assert (LayerWidth("0", 8, 5), LayerWidth("3", 2, 2)) == layer_widths(net(8), net(5))


class Sleep(nn.Module):
    """Takes the time it is told to, and notes how it was called."""

    def __init__(self, seconds):
        super().__init__()
        self.seconds, self.calls = seconds, []

    def forward(self, x):
        self.calls.append((self.training, torch.get_num_threads(), torch.is_inference_mode_enabled()))
        time.sleep(self.seconds)
        return x


def test_latency_is_the_time_of_a_forward_pass():
    """The slower network is slower by what it sleeps longer; quartiles enclose the median."""
    fast, slow = latency([Sleep(0.001), Sleep(0.02)], (torch.zeros(1),), seconds=0.3)

    assert fast.low <= fast.median <= fast.high
    assert 0.001 <= fast.median < slow.median
    assert slow.median >= 0.02


def test_latency_is_measured_in_eval_mode_on_the_threads_told_and_leaves_no_trace():
    """Warm-up included."""
    model, threads = Sleep(0.0).train(), torch.get_num_threads()
    (found,) = latency([model], (torch.zeros(1),), threads=2, seconds=0.02)

    assert {(False, 2, True)} == set(model.calls)
    assert found.runs < len(model.calls)
    assert (2, threads, True) == (found.threads, torch.get_num_threads(), model.training)
    assert found.device
