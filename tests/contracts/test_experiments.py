"""Rows of the papers' tables: what they say, that each can be run or says why not, and what a quick run keeps."""

import dataclasses

import pytest
import torch

from secateurs.app import models
from secateurs.app.cli.recipe import Recipe
from secateurs.app.experiments import Reported, find, rows
from secateurs.app.experiments.listing import HEADINGS, listed, markdown
from secateurs.app.experiments.quick import quick
from secateurs.app.experiments.settling import Order, recipe_of, unavailable
from secateurs.errors import InputError, RecipeError

PAPERS = ("foad", "ortho-eb", "epruner", "ccp", "increg", "sfp", "asfp", "srfp", "asrfp", "greg", "gfisher", "adaptive")
ANCHORS = ("depgraph", "chip", "coring")

CANNOT = {
    "foad-mobilefacenet": "CASIA-WebFace",
    "gfisher-retinanet": "a training loop for detectors",
    "gfisher-r50-dist": "DIST's loss",
    **dict.fromkeys(["chip-r56", "chip-r110-44", "chip-r110-52", "chip-r110-72", "chip-vgg16"], "the method chip"),
    **dict.fromkeys(["coring-r56", "coring-vgg16"], "the method coring"),
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

    assert (short.method, short.options, short.macs, short.gamma) == (full.method, full.options, full.macs, full.gamma)
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
        "milestones", "step_every", "warmup",
    }  # fmt: skip
    full = Recipe(epochs=160, schedule="multi-step", milestones=(80, 120), prune_batch_size=3, warmup=5.0)
    short = quick(full, stand_in=True)

    changed = {f.name for f in dataclasses.fields(Recipe) if getattr(short, f.name) != getattr(full, f.name)}
    assert changed <= shortened


def test_the_list_says_not_run_where_nothing_was_run():
    every = listed()

    assert {one.here for one in every} == {"not run"}
    assert markdown(every).count("\n") == len(rows()) + 2
    assert all(len(one.cells()) == len(HEADINGS) for one in every)
    sfp = next(one for one in every if one.row.name == "sfp-r56")
    assert sfp.cells()[5:8] == ("92.26 ± 0.31 (quoted)", "200", "3.39 P")
