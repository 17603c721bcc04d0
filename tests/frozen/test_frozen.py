"""What was computed before is computed still: structure may change, numbers must not.

Recorded values are in the JSON files beside this one; `record` says what they are and writes them anew.

On the machine that recorded them (same processor, same instructions used by PyTorch, same versions) everything is
equal to the bit. On any other machine:

- groups, costs, and what weights or a seed alone decide are equal to the bit all the same;
- where data or long repeated sums decide (Taylor, FOAD, EPruner, CCP) floats round otherwise, and a choice between near
  equals may fall the other way: only costs are compared, to 2 %, and the test is reported as skipped;
- training in single precision multiplies a rounding until whole filters differ. Training in double precision does not:
  it must keep the recorded units, and sums of tensors within 1e-6 of those of their magnitudes;
- runs of the command line, which train in single precision, are compared in costs alone, and skipped likewise.
"""

from __future__ import annotations

import pytest
import torch
from tests.frozen import record

HERE = record.machine()


@pytest.fixture(autouse=True)
def one_thread():
    """Sums are made in one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def elsewhere(kind):
    """What of this machine is not as on the one that recorded; empty on the same one."""
    there = record.recorded(kind)["machine"]
    return ", ".join(f"{key} {there[key]!r}, here {HERE[key]!r}" for key in there if there[key] != HERE[key])


def compare(found, expected, what):
    """Equal but for the hash first, so that a failure names groups and numbers; the hash last."""
    rest = [{key: value for key, value in one.items() if key != "sha256"} for one in (expected, found)]
    assert rest[0] == rest[1], f"{what} changed"
    assert expected["sha256"] == found["sha256"], f"of {what}, the same units are kept, but the weights have other bits"


def judge_cost(found, expected):
    """To 2 %: room for a unit or two that went the other way."""
    assert found == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("network", record.BUILDERS)
def test_the_same_groups_are_found(network):
    """Their names, their order, their units, and what the network costs."""
    expected, found = record.recorded("plans")[network]["groups"], record.groups(network)

    assert [*expected["units"].items()] == [*found["units"].items()]
    assert expected["cost"] == found["cost"]


ALWAYS = {("resnet20", "magnitude"), ("resnet20", "epruner"), ("vit", "taylor"), ("vit", "foad")}
"""Of the default tier; the others are slow."""
TRAINED = {"GReg1", "SFP", "GroupFisher"}
"""Trainings of the default tier; the others are slow."""


@pytest.mark.parametrize(
    ("network", "method"),
    [pair if pair in ALWAYS else pytest.param(*pair, marks=pytest.mark.slow) for pair in record.pairs()],
)
def test_the_same_units_are_kept(network, method):
    """By each criterion and each one-shot method, at the same cost, with the same weights."""
    expected, found = record.recorded("plans")[network]["methods"][method], record.pruned(network, method)

    if record.exact(method) or not (other := elsewhere("plans")):
        compare(found, expected, f"{method} on {network}")
        return
    judge_cost(found["cost"], expected["cost"])
    pytest.skip(f"costs agree, bits not compared: recorded with {other}")


@pytest.mark.parametrize(
    "name",
    [n if n in TRAINED else pytest.param(n, marks=pytest.mark.slow) for n in record.TRAINED],
)
def test_training_ends_with_the_same_weights(name):
    """Sixty steps of each training-time method, on handwritten digits."""
    expected = record.recorded("trained")[name]

    if not elsewhere("trained"):
        compare(record.trained(name), expected["single"], name)
        return
    found, expected = record.trained(name, torch.float64), expected["double"]
    assert expected["keep"] == found["keep"]
    assert expected["cost"] == found["cost"]
    assert expected["sums"].keys() == found["sums"].keys()
    for tensor, (total, magnitude) in expected["sums"].items():
        assert found["sums"][tensor] == pytest.approx([total, magnitude], abs=1e-6 * magnitude), tensor


@pytest.mark.slow
@pytest.mark.parametrize("name", record.RUNS)
def test_the_command_line_reports_the_same_figures(name, tmp_path):
    """Accuracies, costs, file sizes and widths of a whole run, and its weights; not what is timed."""
    expected, found = record.recorded("runs")[name], record.reported(name, tmp_path / "out")

    if not (other := elsewhere("runs")):
        compare(found, expected, f"the run by {name}")
        return
    for side in record.SIDES:
        figures = [[one[side][key] for key in ("macs", "params", "memory")] for one in (found, expected)]
        judge_cost(*figures)
    pytest.skip(f"costs agree, bits not compared: recorded with {other}")


def test_nothing_is_recorded_that_is_not_compared():
    """The files hold exactly the cases above."""
    plans = record.recorded("plans")

    assert {"machine", *record.BUILDERS} == plans.keys()
    assert set(record.pairs()) == {(name, way) for name in record.BUILDERS for way in plans[name]["methods"]}
    assert {"machine", *record.TRAINED} == record.recorded("trained").keys()
    assert {"machine", *record.RUNS} == record.recorded("runs").keys()
