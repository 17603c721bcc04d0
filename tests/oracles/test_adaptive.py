"""The profits of Adaptive Pruning (our reconstruction) against textbook statistics."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import f_oneway
from tests.laws.loops import LESSONS, X, pupil, sgd, train

import secateurs as sct
from secateurs.methods.adaptive import AdaptivePruning
from secateurs.methods.adaptive.fold import fit
from secateurs.methods.adaptive.profit import (
    Combination,
    candidates,
    correlation,
    discriminability,
    effective_rank,
    next_profit,
    own_profit,
    uniqueness,
)
from secateurs.methods.adaptive.standing import Standing


def sample(n=60, units=5, seed=0):
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, n)
    return random.normal(size=(n, units)) + np.outer(labels, np.linspace(0, 2, units)), labels


def test_discriminability_is_the_correlation_ratio():
    """η² from the F statistic of a one-way analysis of variance, minus what chance gives."""
    z, labels = sample()
    k, n = 3, len(z)
    for unit in range(z.shape[1]):
        f = f_oneway(*(z[labels == c, unit] for c in range(k))).statistic
        eta = f * (k - 1) / (f * (k - 1) + n - k)

        assert discriminability(z, labels)[unit] == pytest.approx(max(0.0, eta - (k - 1) / (n - 1)))


def test_discriminability_of_noise_is_about_zero():
    random = np.random.default_rng(1)
    values = [discriminability(random.normal(size=(200, 4)), random.integers(0, 10, 200)).mean() for _ in range(50)]

    assert np.mean(values) < 0.02


def test_uniqueness_is_one_minus_r_squared():
    """With no shrinkage: regress each unit on its peers."""
    z, _ = sample(units=4)
    for unit in range(4):
        peers = np.column_stack([np.ones(len(z)), np.delete(z, unit, axis=1)])
        left = z[:, unit] - peers @ np.linalg.lstsq(peers, z[:, unit], rcond=None)[0]
        r2 = 1 - left.var() / z[:, unit].var()

        assert uniqueness(z, shrink=0.0)[unit] == pytest.approx(1 - r2)


def test_copies_are_not_unique_and_dead_units_are_worth_nothing():
    z, labels = sample(units=3)
    z = np.column_stack([z, z[:, 0], np.zeros(len(z))])

    assert uniqueness(z)[[0, 3]].max() < 0.1
    assert uniqueness(z)[4] == 0.0
    assert own_profit(z, labels)[4] == 0.0
    assert correlation(z)[0, 3] == pytest.approx(1.0)


@given(units=st.integers(2, 8), seed=st.integers(0, 100))
def test_profits_do_not_depend_on_the_order_of_units(units, seed):
    z, labels = sample(units=units, seed=seed)
    order = np.random.default_rng(seed).permutation(units)

    np.testing.assert_allclose(own_profit(z[:, order], labels), own_profit(z, labels)[order], rtol=1e-8)
    assert ((0 <= own_profit(z, labels)) & (own_profit(z, labels) <= 1)).all()


def test_effective_rank_counts_directions():
    random = np.random.default_rng(0)
    z = random.normal(size=(4000, 4))

    assert effective_rank(z) == pytest.approx(4.0, abs=0.02)
    assert effective_rank(np.column_stack([z[:, :1]] * 4)) == pytest.approx(1.0, abs=1e-6)


def test_next_profit_is_relative_to_a_high_quantile():
    fisher = np.array([1.0] * 19 + [1000.0])

    assert next_profit(fisher)[:19].tolist() == [1.0] * 19
    assert next_profit(np.zeros(3)).tolist() == [0.0] * 3


def test_the_combination_learns_which_profit_the_loss_follows():
    """Loss rises made from one profit alone drive the weight to its bound; it never leaves [0.1, 0.9]."""
    random = np.random.default_rng(0)
    for exponents, expected in (((1.0, 0.0), 0.9), ((0.0, 1.0), 0.1), ((1.0, 1.0), 0.5)):
        mix = Combination()
        for _ in range(20):
            own, following = random.uniform(0.05, 1, 20), random.uniform(0.05, 1, 20)
            mix.learn(own, following, own ** exponents[0] * following ** exponents[1])

        assert mix.weight == pytest.approx(expected, abs=0.02)


def test_a_flat_loss_teaches_nothing():
    mix = Combination()
    mix.learn(np.full(4, 0.5), np.full(4, 0.5), np.zeros(4))

    assert mix.weight == 0.5


def test_candidates_are_outliers_and_the_worse_of_a_pair():
    score = np.array([1.0, 1.1, 0.9, 1.05, -5.0])
    matrix = np.eye(5)
    matrix[0, 1] = matrix[1, 0] = -0.99
    low, partner = candidates(score, matrix, 2.0)

    assert low.tolist() == [True, False, False, False, True]
    assert partner.tolist() == [1, -1, -1, -1, -1]


def test_the_running_score_is_corrected_for_its_start():
    standing = Standing.fresh(2)
    standing.score(np.array([0, 1]), np.array([3.0, 5.0]), 0.7)

    assert standing.value(np.array([0, 1])).tolist() == pytest.approx([3.0, 5.0])
    standing.score(np.array([0]), np.array([1.0]), 0.7)
    assert float(standing.value(0)) == pytest.approx((0.7 * 0.3 * 3 + 0.3 * 1) / (0.7 * 0.3 + 0.3))


def test_standing_follows_units_that_come_and_go():
    standing = Standing.fresh(4)
    standing.own[:] = [10, 11, 12, 13]
    grown = standing.grown([1, 3], now=7)

    assert grown.own.tolist() == [10, 11, 11, 12, 13, 13]
    assert grown.grace.tolist() == [0, 0, 5, 0, 0, 5]
    assert not grown.may_grow(9)
    assert grown.may_grow(12)
    assert grown.take(np.array([0, 2, 5])).own.tolist() == [10, 11, 13]


def test_growth_is_bounded():
    """γ falls by a fifth each time: at most e^0.25 in all, and one unit at least."""
    random, size, standing = np.random.default_rng(0), 1000, Standing.fresh(1000)
    for _ in range(40):
        parents = standing.parents(0.05, random)
        assert len(set(parents)) == len(parents) >= 1
        size += len(parents)
        standing = standing.grown(parents, 0)

    assert size / 1000 < np.exp(0.25) + 0.04


def test_a_line_is_fitted():
    x = np.array([0.0, 1.0, 2.0, 3.0])

    assert fit(x, 3 * x - 1) == pytest.approx((3.0, -1.0))
    assert fit(np.ones(4), x) == pytest.approx((0.0, 1.5))


@pytest.mark.slow
def test_without_a_budget_it_settles_by_itself():
    """The number of filters is found; the run ends done, with fewer or more filters, and says the widths."""
    model = pupil()
    method = AdaptivePruning(batches=2, probe_samples=8).fitted(4, 20)
    session = sct.Session(model, X, method=method, steps_per_epoch=4, epochs=20, data=LESSONS)
    optimizer = sgd(model)
    session.attach(optimizer)
    train(model, optimizer, 80)
    small = session.finish()

    assert session.phase == "done"
    assert "widths" in session.history.of("phase")[-1].note
    assert sct.trace(small, X).cost() == session.cost


def test_redundant_units_are_removed_without_loss():
    """A unit that is an exact copy of another goes, its consumers' weights move to the partner, outputs stay."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    model[0].weight.data[4] = 2 * model[0].weight.data[1]
    model[0].bias.data[4] = 2 * model[0].bias.data[1]
    data = [(torch.randn(64, 6), torch.randint(0, 3, (64,)))]
    method = AdaptivePruning(batches=1, patience=1, after=0, round_epochs=1.0, until=1.0, kappa=1e9, grows=False)
    session = sct.Session(model, torch.zeros(1, 6), method=method, steps_per_epoch=1, epochs=2, data=data)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    session.attach(optimizer)
    before = model(data[0][0]).detach()
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(data[0][0]), data[0][1]).backward()
        optimizer.step()
    small = session.finish()

    assert small[0].out_features == 4
    torch.testing.assert_close(small(data[0][0]), before, rtol=1e-4, atol=1e-5)
