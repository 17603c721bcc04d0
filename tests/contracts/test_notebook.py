"""What a value shows in a notebook and in a terminal: small, true, and escaped."""

import re

import torch
from tests.laws.loops import EPOCHS, PER_EPOCH, X, pupil
from tests.laws.networks import Tied, images, made
from torch import nn

import secateurs as sct


def shown():
    result = sct.prune(made(Tied), images(), method="l2", budget=sct.Budget(macs=0.5))
    session = sct.Session(
        pupil(), X, method="greg1", budget=sct.Budget(macs=0.5), steps_per_epoch=PER_EPOCH, epochs=EPOCHS
    )
    return result, result.plan, result.graph, session


def test_every_value_is_a_small_table_and_a_short_line():
    """Not a wall: the module itself and the kept indices are asked for by name."""
    for value in shown():
        html = value._repr_html_()
        assert html.count("<table>") == html.count("</table>") == 1
        assert html.count("<tr>") <= 14
        assert len(html) < 6000
        assert "\n" not in repr(value)
        assert len(repr(value)) < 200


def test_the_figures_are_those_of_the_value():
    result, plan, graph, session = shown()

    assert f"{result.cost_after.macs:,}" in result._repr_html_()
    assert f"keeps {sum(map(len, plan.keep.values()))} of " in repr(plan)
    assert all(group.name in graph._repr_html_() for group in graph.groups)
    assert f"{session.cost.macs:,}" in session._repr_html_()
    assert re.search(r"MACs \d+\.\d%", repr(result))


def test_names_are_escaped_and_long_tables_are_cut():
    net = nn.Sequential()
    for index in range(20):
        net.add_module(f"<b>{index}", nn.Conv2d(3 if index == 0 else 4, 4, 1))
    html = sct.trace(net, torch.zeros(1, 3, 4, 4))._repr_html_()

    assert "<b>0" not in html
    assert "&lt;b&gt;0" in html
    assert "and 7 more" in html


def test_the_public_face_is_the_public_names():
    assert dir(sct) == sorted({*sct.__all__, "__version__"})


def test_help_begins_with_a_guide_that_fits_on_a_screen():
    """As `sct?` does in a notebook; pydoc shows every public class after it, and its names are public ones."""
    lines = sct.__doc__.splitlines()
    named = set(
        re.findall(
            r"`(\w+)`|help\(secateurs\.(\w+)\)|sct\.(\w+)\(", "\n".join(lines[lines.index("Where to go from here:") :])
        )
    )

    assert len(lines) <= 40
    assert {"prune", "trace", "Session", "recover", "names"} <= {"".join(one) for one in named} <= {*sct.__all__}
