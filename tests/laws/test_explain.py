"""What `explain` says is what the graph does: the same entries go, each bound to one before it."""

import json
import re

import numpy as np
import pytest
import torch
from tests.laws.networks import Tied, images, made
from tests.zoo.micro import MICRO
from torch import nn

import secateurs as sct
from secateurs.errors import InputError

FEW = {
    "batch_norm",
    "conv_depthwise",
    "concat_of_three",
    "flatten_linear",
    "encoder_of_one_width",
    "channel_shuffle",
    "pixel_shuffle",
    "recurrence",
}
assert {m.name for m in MICRO} >= FEW
X = torch.zeros(1, 3, 8, 8)


def removed(answer):
    """(tensor, dim) -> every entry that an explanation names, asked for or following."""
    found = {}
    for piece in [*answer.asked, *(piece for step in answer.steps for piece in step.pieces)]:
        found.setdefault((piece.tensor, piece.dim), set()).update(piece.index)
    return {key: sorted(index) for key, index in found.items()}


@pytest.mark.parametrize(
    "micro",
    [m if m.name in FEW else pytest.param(m, marks=pytest.mark.slow) for m in MICRO],
    ids=lambda micro: micro.name,
)
def test_the_steps_name_every_entry_that_goes_and_no_other(micro):
    """Of the last unit of each group: the entries of all its slices, once each."""
    graph = micro.subject().graph
    for group in graph.groups:
        first = next((s for s in group.slices if s.role == "out"), group.slices[0])
        answer = sct.explain(graph, {first.tensor: first.index[-1].tolist()} if first.role == "out" else group.name)
        unit = slice(-1, None) if first.role == "out" else slice(None)

        going = {(s.tensor, s.dim): sorted(s.index[unit].ravel().tolist()) for s in group.slices}
        assert removed(answer) == going
        named = [(p.tensor, p.dim, i) for step in answer.steps for p in step.pieces for i in p.index]
        assert len(named) == len(set(named))
        assert not answer.kept
        assert list(answer.units) == [group.name]


def test_a_meeting_is_named_with_its_operator_and_line():
    """Filters that are added together go together, and the line of the sum says so."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.head = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1)

        def forward(self, x):
            total = self.a(x) + self.b(x)
            return self.head(total)

    line = Net.forward.__code__.co_firstlineno + 1
    answer = sct.explain(sct.trace(Net(), X), {"b": 4})

    met = [step for step in answer.steps if step.meets]
    assert [(step.place.operator, step.place.source) for step in met] == [
        ("aten.add.Tensor", f"test_explain.py:{line}")
    ]
    assert [str(piece) for piece in met[0].pieces] == ["a.weight dim 0: 4"]


def test_what_is_protected_says_why_and_how_it_is_bound_there():
    """From the layer over the sum to the operator that has no rule."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.head = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)

        def forward(self, x):
            x = self.a(x)
            return self.head(torch.fft.fft(x + self.b(x).relu()).real)

    graph = sct.trace(Net(), torch.zeros(2, 4))
    (kept,) = sct.explain(graph, "b").kept

    assert kept.piece.index == (0, 1, 2, 3, 4, 5)
    assert "_fft" in kept.reason
    assert [step.place.operator for step in kept.path] == ["aten.add.Tensor"]
    assert "meet a.weight, .bias dim 0: 0" in str(kept)
    assert graph.obstacles[0].reason == kept.reason
    assert graph.obstacles[0].channels == 12


def test_ties_are_told():
    """Groups that lose units in step, whichever these are."""
    graph = next(m for m in MICRO if m.name == "encoder_of_one_width").subject().graph
    tie = graph.ties[0]
    answer = sct.explain(graph, {tie.groups[0]: range(tie.step[0])})

    (said,) = answer.tied
    assert dict(said.units) == {n: k for n, k in tie.lost(1).items() if n != tie.groups[0]}
    assert said.because == tie.because


def test_it_explains_what_a_plan_left():
    """Indices are those of the smaller network."""
    graph = sct.trace(made(Tied), images())
    group = max(graph.groups, key=lambda g: g.units)
    small = graph.shrink({group.name: np.arange(2, group.units)})

    assert list(sct.explain(small, group.name).units.values()) == [tuple(range(group.units - 2))]
    with pytest.raises(InputError, match=f"no channel {group.units - 2}"):
        sct.explain(small, {group.name: group.units - 2})


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("layer", "no module, tensor or group"),
        ({}, "Nothing is asked"),
        ({"0": [8]}, "channels 0 to 7"),
        ({"0": ["a"]}, "whole numbers"),
        ({"1": 0}, "has no channels"),
        ({"": 0}, "several widths"),
        (3, "dict of name -> channels"),
    ],
)
def test_questions_without_an_answer_are_refused(what, words):
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    with pytest.raises(InputError, match=words):
        sct.explain(sct.trace(net, X), what)


def test_an_answer_is_text_a_table_and_json():
    """The same pieces in each."""
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3))
    answer = sct.explain(sct.trace(net, X), {"0": [3], "3": ()})

    read = json.loads(answer.to_json())
    assert read == answer.as_dict() | {"units": {"0": [3]}} | {k: read[k] for k in ("asked", "steps", "kept")}
    assert [s["operator"] for s in read["steps"]] == [s.place.operator for s in answer.steps]
    assert re.search(r"Never removed: 3\.weight dim 0: 0-3\n +because it is an output of the model", str(answer))
    assert answer._repr_html_().count("<tr>") == 1 + len(answer.steps) + len(answer.kept)
