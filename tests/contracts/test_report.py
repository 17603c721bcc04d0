"""Reports and measurements: the figures, the table, the picture, and the time that a forward pass takes."""

import json
import re
import shutil
import time
from dataclasses import replace
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn

import secateurs as sct
from secateurs.app.bench.timing import latency
from secateurs.app.report import (
    Figures,
    Kept,
    LayerTimes,
    LayerWidth,
    Proof,
    Report,
    Settings,
    Spread,
    Stage,
    Timed,
    draw,
    kept_whole,
    layer_widths,
    page,
    table,
)
from secateurs.deploy import LayerTime
from secateurs.errors import InputError

BEFORE = Figures(0.9889, 40_551_040, 269_722, 2_654_504, 131_072, 1_093_136, 0.0041)
AFTER = Figures(0.9861, 20_275_520, 140_000, 1_327_252, 65_536, 546_568, 0.0031)
WIDTHS = (LayerWidth("conv1", 16, 9), LayerWidth("linear", 10, 10))
CHROMIUM = {} if (own := shutil.which("chromium")) is None else {"executable_path": own, "args": ["--no-sandbox"]}
EPOCH = {"epoch": 1, "train_loss": 0.3, "loss": 0.2, "accuracy": 0.985}
STAGES = (Stage("trained", 0.99, 40.0), Stage("pruned", 0.31), Stage("recovered", 0.985, 20.0, (EPOCH,)))
SETTINGS = Settings(
    method={"name": "l2"},
    budget={"macs": 0.5, "latency": None},
    widths="multiples of 8",
    epochs={"train": 1, "prune": 0, "fine_tune": 1},
    device="a CPU",
    threads=1,
    data={"name": "digits", "train": 1078, "validation": 360, "test": 359},
    recipe={"model": "resnet20", "protect": [], "note": "<script>alert(1)</script>"},
    versions={"secateurs": "0.1.0", "torch": "2.14"},
)
TIMED = Timed(
    "onnxruntime, 1 thread, a CPU",
    "onnxruntime",
    1,
    Spread(0.0041, 0.004, 0.0042, 900, "processor", 0.6),
    Spread(0.0031, 0.003, 0.0032, 950, "processor", 0.6),
    0.756,
    0.004,
)
LAYERS = LayerTimes(
    "onnxruntime, a CPU",
    tuple(LayerTime(f"block{k} (node_{k})", "Conv", 1e-3 / (k + 1)) for k in range(20)),
    tuple(LayerTime(f"block{k} (node_{k})", "Conv", 5e-4 / (k + 1)) for k in range(20)),
)


@pytest.fixture
def report():
    return Report(
        "resnet20 on digits",
        BEFORE,
        AFTER,
        WIDTHS,
        STAGES,
        SETTINGS,
        Proof(1e-16, 1e-5),
        latency=(TIMED,),
        layers=LAYERS,
        protected=(Kept("It is an output of the model", ("linear.weight (dimension 0)",)),),
        conditions={"seed": "0"},
    )


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
    assert "activations written 2.53 MiB 1.27 MiB 50.0 %" in text
    assert "peak activation memory 128.0 KiB 64.0 KiB 50.0 %" in text
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


@pytest.mark.parametrize(
    "layers", [0, 30, pytest.param(1, marks=pytest.mark.slow), pytest.param(200, marks=pytest.mark.slow)]
)
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


class Reading(HTMLParser):
    """What a page holds: ids, texts, and whatever could load something."""

    def __init__(self, content):
        super().__init__()
        self.ids, self.text, self.loads, self.open = set(), "", [], []
        self.feed(content.decode())

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.ids |= {found["id"]} if "id" in found else set()
        if tag not in ("meta", "link", "i", "br", "polyline", "circle"):
            self.open.append(tag)
        self.loads += [value for name, value in attrs if name in ("src", "href") and value != "data:,"]
        self.loads += [tag] if tag in ("script", "iframe", "object", "embed") else []

    def handle_endtag(self, tag):
        if tag in self.open:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += f" {data.strip()}"


class TestPage:
    """One HTML file with everything in it."""

    def test_holds_every_part_of_the_report(self, report):
        """What was and is, the steps, the devices, the layers, what is protected, the recipe."""
        found = Reading(page(report))
        text = " ".join(found.text.split())

        parts = {"summary", "costs", "accuracy", "latency", "time", "widths", "protected", "conditions", "recipe"}
        assert parts <= found.ids
        for told in (
            "98.61 % test accuracy, before 98.89 % (-0.28 points)",
            "75.6 % of the time on onnxruntime: 4.10 ms → 3.10 ms",
            "0.756 ± 0.004",
            "4.00 ms – 4.20 ms, 900 runs",
            "other work disturbed 60 % of the samples",
            "31.0 % pruned",
            "1.00 ms → after 500.0 µs",
            "8 others",
            "16 → after 9",
            "It is an output of the model linear.weight (dimension 0)",
            "model resnet20",
            "torch 2.14",
        ):
            assert told in text, told

    def test_loads_nothing_and_runs_nothing(self, report):
        """Nothing has an address; what a recipe says is text."""
        content = page(report)
        found = Reading(content)

        assert found.loads == []
        assert b"<script" not in content
        assert b"http://" not in content
        assert b"https://" not in content
        assert b"prefers-color-scheme: dark" in content
        assert found.open == []

    def test_leaves_out_what_there_is_not(self, report):
        bare = replace(report, latency=(), layers=None, protected=(), stages=())
        found = Reading(page(bare))

        assert not {"latency", "time", "accuracy"} & found.ids
        assert "every channel could be removed" in found.text

    @pytest.mark.slow
    def test_looks_the_same_in_a_browser(self, report, tmp_path):
        """No console error; no sideways scrolling on a phone; other colours in the dark."""
        api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
        (tmp_path / "report.html").write_bytes(page(report))
        with api.sync_playwright() as driver:
            try:
                browser = driver.chromium.launch(**CHROMIUM)
            except api.Error as cause:
                pytest.skip(f"no Chromium: {cause}")
            seen = {}
            for scheme in ("light", "dark"):
                tab = browser.new_page(viewport={"width": 390, "height": 800}, color_scheme=scheme)
                errors = []
                tab.on("console", lambda message, errors=errors: errors.append(message.text))
                tab.on("pageerror", lambda error, errors=errors: errors.append(str(error)))
                tab.goto((tmp_path / "report.html").as_uri())
                seen[scheme] = tab.evaluate("getComputedStyle(document.body).backgroundColor")
                assert errors == []
                assert tab.evaluate("document.documentElement.scrollWidth") <= 390
                assert tab.locator("#accuracy circle").count() == 3
            browser.close()

        assert seen["light"] != seen["dark"]


def paths(found, before=""):
    """Every field of a JSON value by its dotted name, rows of a list as one."""
    if isinstance(found, list):
        return {name for row in found for name in paths(row, f"{before}[]")} or {before}
    if isinstance(found, dict) and before not in FREE:
        return {name for key, value in found.items() for name in paths(value, f"{before}.{key}" if before else key)}
    return {before}


FREE = {"settings.recipe", "settings.versions", "settings.method", "settings.budget", "conditions"}


def test_every_field_is_documented(report):
    """The schema's page names each field of report.json, and no other."""
    text = Path(__file__).parents[2].joinpath("docs", "report.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `([\w.\[\]]+)` \|", text, re.MULTILINE))

    assert documented == paths(json.loads(report.to_json()))


def test_what_is_protected_is_grouped_by_reason():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    found = kept_whole(sct.trace(model, torch.zeros(1, 4)))

    assert any("2.weight (dimension 0)" in kept.tensors for kept in found)
    assert len({kept.reason for kept in found}) == len(found)


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
