"""Schedules against independent derivations: root finding, products, the authors' tabulated values."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq

from secateurs.errors import InputError
from secateurs.methods.orthoreg.rounds import left_after
from secateurs.session.schedule import (
    Asymptotic,
    Clock,
    Constant,
    Cubic,
    Exponential,
    ExponentialDecay,
    Linear,
    OneShot,
    ToZero,
    count,
    count_up,
)

RATES = [Constant(), Asymptotic(), Asymptotic(exact=True), Cubic(), Linear(), Exponential(), OneShot()]
DECAYS = [ToZero(), ExponentialDecay(), ExponentialDecay(start=0.0)]


@pytest.mark.parametrize("schedule", RATES, ids=repr)
@pytest.mark.parametrize("total", [1, 7, 100, 200])
def test_a_rate_rises_from_at_least_zero_to_one(schedule, total):
    """Every rate schedule is monotone and reaches the full rate at the last event."""
    values = [schedule(t, total) for t in range(total + 1)]

    assert values == sorted(values)
    assert 0.0 <= values[0]
    assert values[-1] == pytest.approx(1.0)


@pytest.mark.parametrize("schedule", DECAYS, ids=repr)
@pytest.mark.parametrize("total", [1, 7, 100, 200])
def test_a_decay_falls_to_zero(schedule, total):
    """Every decay is monotone and zero at the end, so that what is selected last is really removed."""
    values = [schedule(t, total) for t in range(total + 1)]

    assert values == sorted(values, reverse=True)
    assert values[-1] == 0.0


@pytest.mark.parametrize("at", [0.05, 0.125, 0.3, 0.5])
def test_the_exact_asymptote_passes_through_its_three_points(at):
    """a·e^{−kt} + b through (0, 0), (at·T, ¾), (T, 1), solved here by Brent's method in the original variables."""
    k = brentq(lambda k: (1 - math.exp(-k * at)) - 0.75 * (1 - math.exp(-k)), 1e-6, 500)
    schedule = Asymptotic(at=at, exact=True, snap=1.1)

    for t in range(0, 101, 5):
        assert schedule(t, 100) == pytest.approx((1 - math.exp(-k * t / 100)) / (1 - math.exp(-k)), abs=1e-9)
    assert schedule(100 * at, 100) == pytest.approx(0.75)
    assert schedule(100, 100) == pytest.approx(1.0)


def test_the_closed_form_is_the_exact_one_at_an_eighth():
    """At at = 1/8 the closed form that everybody implements is within 2e-5 of the three-point solution."""
    for t in range(190):
        assert Asymptotic()(t, 200) == pytest.approx(Asymptotic(exact=True)(t, 200), abs=2e-5)


def test_the_asymptote_is_three_quarters_after_an_eighth():
    assert Asymptotic()(25, 200) == pytest.approx(0.75)
    assert Asymptotic()(189, 200) < 1.0
    assert Asymptotic()(190, 200) == 1.0


@pytest.mark.parametrize(("t", "alpha"), [(10, 0.562), (25, 0.237), (50, 0.056), (100, 0.0032), (180, 0.0)])
def test_the_exponential_decay_has_the_tabulated_values(t, alpha):
    assert ExponentialDecay()(t, 200) == pytest.approx(alpha, abs=5e-4)


def test_the_exponential_decay_ends_at_its_floor():
    """Without the cut, α(T) is about σ."""
    assert ExponentialDecay(cut=2.0)(100, 100) == pytest.approx(1e-5, rel=1e-3)


def test_a_zero_start_is_hard_pruning():
    """α0 = 0 turns SRFP into SFP."""
    assert {ExponentialDecay(start=0.0)(t, 50) for t in range(51)} == {ToZero()(0, 50)}


@given(p=st.floats(0.01, 0.99), n=st.integers(1, 30))
def test_rounds_together_remove_the_target(p, n):
    """What is left falls with every round, and after the last it is 1 − p."""
    left = [left_after(k, n, p) for k in range(n + 1)]

    assert left[0] == 1.0
    assert left[-1] == pytest.approx(1 - p)
    assert left == sorted(left, reverse=True)


def test_published_rounds_have_their_published_sizes():
    """As coded: p = .5, n = 2 → 33.3 % then 16.7 % of the original; p = .75, n = 3 → 50, 16.7, 8.3 %."""
    for p, n, expected in [(0.5, 2, [1 / 3, 1 / 6]), (0.75, 3, [1 / 2, 1 / 6, 1 / 12])]:
        left = [left_after(k, n, p) for k in range(n + 1)]

        assert [a - b for a, b in pairwise(left)] == pytest.approx(expected)


@pytest.mark.parametrize(("x", "share"), [(0.25, 0.578125), (0.5, 0.875), (1.0, 1.0)])
def test_the_cubic_schedule_is_zhu_and_guptas(x, share):
    """s_t = s_f + (s_i − s_f)(1 − (t − t0)/(nΔt))³ with s_i = 0 and s_f = 1."""
    assert Cubic()(20 * x, 20) == pytest.approx(share)


def test_exponential_rounds_take_one_fraction_of_what_is_left():
    """What is left to remove, up to the 1 % that is never removed, falls by one factor a round."""
    left = [1.0 - 0.99 * Exponential()(k, 7) for k in range(8)]

    assert [b / a for a, b in pairwise(left)] == pytest.approx([0.01 ** (1 / 7)] * 7)


def test_bad_clocks_and_rates_are_refused():
    with pytest.raises(InputError, match="steps_per_epoch"):
        Clock(0, 3)
    with pytest.raises(InputError, match="epochs"):
        Clock(3, 2.5)
    with pytest.raises(InputError, match=r"between 0 and 0\.75"):
        Asymptotic(at=0.8)


@given(units=st.integers(1, 4096), percent=st.integers(0, 100))
def test_counts_are_those_of_exact_arithmetic(units, percent):
    """floor and ceil of units·percent/100 in integers, whatever binary rounding does, and one unit is always kept."""
    assert count(units, percent / 100) == min(units - 1, units * percent // 100)
    assert count_up(units, percent / 100) == min(units - 1, -(-units * percent // 100))


def test_the_famous_rounding_traps():
    assert count(40, 1 - 0.9) == 4
    assert count_up(100, 0.55) == 55


def test_epochs_end_where_they_should():
    clock = Clock(4, 3)

    assert [s for s in range(13) if clock.ends_epoch(s)] == [4, 8, 12]
    assert [s for s in range(13) if clock.ends_epoch(s, 2)] == [8, 12]
