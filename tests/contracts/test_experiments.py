"""Rows of the papers' tables: what they say, that each can be run or says why not, and what a quick run keeps."""

import dataclasses
import io
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from secateurs.app import models
from secateurs.app.cli.recipe import Recipe
from secateurs.app.cli.reproduce import Reproduction, reproduce
from secateurs.app.experiments import Reported, find, rows
from secateurs.app.experiments.listing import HEADINGS, listed, markdown
from secateurs.app.experiments.quick import quick
from secateurs.app.experiments.settling import Order, recipe_of, unavailable
from secateurs.app.leaderboard.records import Record, Side, Told
from secateurs.errors import InputError, RecipeError

PAPERS = ("foad", "ortho-eb", "epruner", "ccp", "increg", "sfp", "asfp", "srfp", "asrfp", "greg", "gfisher", "adaptive")
ANCHORS = ("depgraph", "chip", "coring")

CANNOT = {
    "foad-mobilefacenet": "CASIA-WebFace",
    "gfisher-retinanet": "a training loop for detectors",
    "gfisher-r50-dist": "DIST's loss",
}
"""Rows that this version cannot run, and what the reason names."""


def test_every_paper_has_rows():
    named = [row.name for row in rows()]

    for paper in (*PAPERS, *ANCHORS):
        assert any(name.startswith(paper) for name in named), paper


def test_every_row_can_be_run_or_says_why_not():
    """A key or method with a wrong name would be a reason, and so be found here."""
    reasons = {row.name: reason for row in rows() if (reason := unavailable(row))}

    assert reasons.keys() == CANNOT.keys(), reasons
    for name, what in CANNOT.items():
        assert what in reasons[name]


def test_a_row_that_cannot_be_run_is_refused_with_the_reason():
    with pytest.raises(InputError, match=r"gfisher-retinanet cannot be run: it lacks a training loop for detectors"):
        recipe_of(find("gfisher-retinanet"), Order(quick=True))


def test_a_figure_has_a_source_and_only_then():
    with pytest.raises(InputError, match="source"):
        Reported("none", "somewhere", accuracy=93.0)
    with pytest.raises(InputError, match="source"):
        Reported("recall", "memory", accuracy=93.0)
    for row in rows():
        assert row.reported.where, row.name


def test_dense_costs_are_those_of_the_networks():
    """MACs and parameters in the files are the networks' own; costs are made of them."""
    counted = {}
    for row in rows():
        model, classes = str(row.recipe["model"]), {"cifar10": 10, "cifar100": 100, "imagefolder": 1000}.get(row.data)
        if not row.dense or model.startswith("torchvision") or (model, classes) in counted:
            continue
        counted[model, classes] = row.dense["params"]
        with torch.device("meta"):
            network = models.build(model, in_channels=3, num_classes=classes)
        assert sum(p.numel() for p in network.parameters()) == row.dense["params"], row.name
    assert len(counted) > 8


def test_what_a_row_needs_is_said_before_any_work():
    with pytest.raises(InputError, match=r"sfp-r56 needs cifar10; name the folder that holds it: --data FOLDER"):
        recipe_of(find("sfp-r56"), Order())
    assert recipe_of(find("gfisher-r50"), Order(root="there")).weights == "IMAGENET1K_V1"
    assert recipe_of(find("gfisher-r50"), Order(quick=True)).weights is None
    with pytest.raises(RecipeError, match="did you mean 'sfp-r56'"):
        find("sfp-r57")


def test_a_row_is_run_as_it_is(tmp_path):
    """Nothing but seed, data, label and what was asked for differs from the file."""
    row = find("foad-vgg16")
    recipe = recipe_of(row, Order(seed=3, root=tmp_path))

    assert (recipe.seed, recipe.data, recipe.label) == (3, f"cifar10:{tmp_path}", "foad-vgg16")
    for key, value in row.recipe.items():
        if key not in ("data", "method"):
            found = getattr(recipe, key)
            assert (list(found) if isinstance(found, tuple) else found) == value, key
    given = dict(row.recipe["method"])
    assert recipe.method == given.pop("name")
    assert given.items() <= recipe.options.items()


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.name)
def test_quick_has_the_same_stages_in_the_same_order(row):
    if row.name in CANNOT:
        pytest.skip("cannot be run")
    short, full = recipe_of(row, Order(quick=True)), recipe_of(row, Order(root="x", weights="y"))

    options = {**full.options, **row.quick}
    assert (short.method, short.options, short.macs, short.gamma) == (full.method, options, full.macs, full.gamma)
    assert short.label == f"{row.name} (quick)"
    for epochs in ("prune_epochs", "epochs"):
        assert bool(getattr(short, epochs)) == bool(getattr(full, epochs))
    for steps, epochs in (("milestones", "epochs"), ("prune_milestones", "prune_epochs")):
        found = getattr(short, steps)
        assert len(found) == len(getattr(full, steps))
        assert all(a < b for a, b in zip((0, *found), (*found, getattr(short, epochs)), strict=True)) or not found
    assert short.images * (short.train_epochs + short.prune_epochs + short.epochs) < 2000


def test_quick_keeps_everything_that_is_not_length():
    """A new recipe field is the same in a quick run, unless somebody decides otherwise here."""
    shortened = {
        "label", "data", "images", "image_size", "image_resize", "batch_size", "prune_batch_size",
        "calibration_batches", "train_epochs", "train_milestones", "prune_epochs", "prune_milestones", "epochs",
        "milestones", "step_every", "warmup", "train_lr", "prune_lr", "lr", "clip",
    }  # fmt: skip
    full = Recipe(epochs=160, schedule="multi-step", milestones=(80, 120), prune_batch_size=3, warmup=5.0, prune_lr=0.1)
    short = quick(full, stand_in=True)

    changed = {f.name for f in dataclasses.fields(Recipe) if getattr(short, f.name) != getattr(full, f.name)}
    assert changed <= shortened


def test_the_list_says_not_run_where_nothing_was_run():
    every = listed()

    assert {one.measured for one in every} == {None}
    assert {one.cells()[HEADINGS.index("measured")] for one in every} == {"not run"}
    assert markdown(every).count("\n") == len(rows()) + 2
    assert all(len(one.cells()) == len(HEADINGS) for one in every)
    sfp = next(one for one in every if one.row.name == "sfp-r56")
    assert sfp.cells()[6:9] == ("92.26 ± 0.31 (quoted)", "200", "3.39 P")


def record(*, seed=0, label="", macs=475, **keys):
    """A run that left so many thousandths of the MACs."""
    side = Side(accuracy=0.91 + seed / 100, macs=1000, params=100, memory=10, file_bytes=400, latency=0.01)
    told = Told(side, dataclasses.replace(side, macs=macs), 1.0, {}, side.accuracy - 0.01, {"pruned": 200})
    return Record(Path("run"), {"model": "resnet56", "data": "cifar10", "seed": seed, "label": label, **keys}, told, ())


def test_the_list_says_what_runs_of_a_row_came_to_and_what_else_its_method_did():
    own = [record(seed=seed, label="sfp-r56", method={"name": "sfp"}) for seed in (0, 1)]
    elsewhere = [record(method="asfp", macs=480), record(method="greg1", macs=900)]
    nothing = [record(label="srfp-r56 (quick)", method="srfp"), record(method="foad", control="random")]
    found = {one.row.name: one.measured for one in listed([*own, *elsewhere, *nothing])}

    assert str(found["sfp-r56"]) == "90.50 ± 0.71 (last epoch of 200, 47.5 % of the MACs, 2 seeds)"
    assert str(found["asfp-r56"]) == "90.00 (last epoch of 200, 48.0 % of the MACs, 1 seed, not this recipe)"
    assert {name for name, measured in found.items() if measured} == {"sfp-r56", "asfp-r56"}


def test_the_list_says_what_can_be_run_here(tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    here = {one.row.name: one.runnable for one in listed(data=tmp_path)}
    anywhere = {one.row.name: one.runnable for one in listed()}

    assert (here["sfp-r56"], anywhere["sfp-r56"]) == ("yes", "with CIFAR-10")
    assert here["gfisher-r50"] == "no: ImageNet is not there"
    assert anywhere["gfisher-r50"] == "with ImageNet, downloads IMAGENET1K_V1"
    assert here["gfisher-retinanet"].startswith("no: it lacks a training loop")


@pytest.mark.parametrize("terminal", [True, False])
def test_the_list_is_whole_where_no_terminal_limits_it(tmp_path, terminal):
    """A row is one line of a file, however long; a narrow terminal has some columns, and is told so."""
    text = io.StringIO()
    console = Console(file=text, width=100, force_terminal=terminal, color_system=None)
    reproduce(Reproduction(list=True, out=tmp_path / "runs", results=tmp_path), console)

    lines = [line for line in text.getvalue().splitlines() if line.startswith((" row", " sfp-r56 "))]
    assert len(lines) == 2
    assert ("3.39 P" in lines[1], "network" in lines[0]) == (True, not terminal)
    assert ("All 11 columns" in text.getvalue()) == terminal


def test_the_list_as_json_has_every_row_and_figure(tmp_path):
    text = io.StringIO()
    reproduce(Reproduction(list=True, json=True, out=tmp_path / "runs", results=tmp_path), Console(file=text, width=80))

    found = {row["row"]: row for row in json.loads(text.getvalue())}
    assert found.keys() == {row.name for row in rows()}
    assert found["sfp-r56"]["reported"]["accuracy"] == 92.26
    assert found["sfp-r56"]["measured"] is None
