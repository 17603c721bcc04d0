"""IncReg's punish functions and ranks against their stated properties and a slow loop."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.laws.loops import X, pupil, sgd, train

import secateurs as sct
from secateurs.errors import InputError
from secateurs.methods.increg.method import IncReg
from secateurs.methods.increg.punish import Punish


def at(rank, remaining, **options):
    return float(Punish(**options)(torch.tensor(float(rank), dtype=torch.float64), torch.tensor(float(remaining))))


@given(remaining=st.integers(1, 5000), u=st.floats(0.05, 0.95))
def test_the_punish_function_has_its_exact_properties(remaining, u):
    """Δ(0) = A, Δ(N1) = uA, Δ(R) = 0, point-symmetric about (N1, uA), falling."""
    turn = -math.log(u) / (math.log(2 / u) / remaining)

    assert at(0, remaining, u=u) == pytest.approx(1.0)
    assert at(turn, remaining, u=u) == pytest.approx(u, abs=1e-6)
    assert at(remaining, remaining, u=u) == pytest.approx(0.0, abs=1e-6)
    for share in (0.1, 0.4, 0.9):
        near, far = at(turn * (1 - share), remaining, u=u), at(turn * (1 + share), remaining, u=u)
        assert near + far == pytest.approx(2 * u, abs=1e-5)
        assert near > far


def test_the_punish_function_has_its_tabulated_values():
    """R = 50 of 100: 1, .66 (10), .35 (25), .17 (40), 0 (50), −.91 (75), −3.3 (99), in units of A."""
    expected = {0: 1.0, 10: 0.66, 25: 0.35, 40: 0.17, 50: 0.0, 75: -0.91}

    for rank, value in expected.items():
        assert at(rank, 50) == pytest.approx(value, abs=5e-3)
    assert at(99, 50) == pytest.approx(-3.3, abs=0.05)


def test_the_paper_commit_only_moves_the_zero():
    """With R + 1 in α, the zero is at rank R + 1."""
    assert at(51, 50, paper_commit=True) == pytest.approx(0.0, abs=1e-6)
    assert at(50, 50, paper_commit=True) > 0.0


def test_nothing_is_infinite_when_one_of_thousands_remains():
    values = Punish()(torch.arange(4608.0), torch.tensor(1.0))

    assert torch.isfinite(values).all()
    assert (Punish()(torch.arange(10.0), torch.tensor(0.0)) == 0).all()


def test_a_batch_of_layers_is_the_layers_one_by_one():
    rank = torch.stack([torch.arange(12.0), torch.arange(12.0)])
    remaining = torch.tensor([[3.0], [8.0]])
    both = Punish()(rank, remaining)

    for i in range(2):
        torch.testing.assert_close(both[i], Punish()(rank[i], remaining[i]))


def test_a_share_outside_the_unit_interval_is_refused():
    with pytest.raises(InputError, match="lies between"):
        Punish(u=1.5)


def slow_increg(weights, grads, method, count):
    """One group, one unit at a time, from the specification; yields the factors after each step."""
    units = len(weights[0])
    factor, mean_rank, dead = [0.0] * units, [0.0] * units, set()
    for n, weight in enumerate(weights, start=1):
        score = [float(weight[j].abs().sum()) for j in range(units)]
        order = sorted(range(units), key=lambda j: (j not in dead, score[j]))
        for rank, j in enumerate(order):
            mean_rank[j] = ((n - 1) * mean_rank[j] + rank) / n
        alive = sorted((j for j in range(units) if j not in dead), key=lambda j: mean_rank[j])
        remaining = count - len(dead)
        for rho, j in enumerate(alive):
            step = at(rho, remaining) if remaining else 0.0
            factor[j] = max(factor[j] + method.step * step, 0.0) if remaining else 0.0
        dead |= {j for j in alive if factor[j] >= method.ceiling}
        yield list(factor), set(dead)


def test_the_driver_is_the_slow_loop():
    """Factors, ranks and removals of the vectorised driver, step for step, on weights that move by training."""
    model = pupil()
    method = IncReg(step=0.2, ceiling=1.5, limit=40, remove={"first": 0.4}, scope="uncoupled")
    session = sct.Session(model, X, method=method, steps_per_epoch=40, epochs=1, shrink=False)
    optimizer = sgd(model)
    session.attach(optimizer)
    driver = session._driver
    seen, found = [], []
    before = driver.gradients_ready

    def watched():
        seen.append(model.first.weight.detach().clone())
        before()
        span, state = driver._applied.units.ledger.span("first"), driver._applied.state
        found.append((state.factor[span].tolist(), set(state.dead[span].nonzero().flatten().tolist())))

    driver.gradients_ready = watched
    train(model, optimizer, 30)
    for got, want in zip(found, slow_increg(seen, None, method, 4), strict=False):
        assert got[1] == want[1]
        living = [j for j in range(10) if j not in want[1]]
        assert [got[0][j] for j in living] == pytest.approx([want[0][j] for j in living], abs=1e-4)
    assert session.phase == "done"
    assert len(session.plan.keep["first"]) == 6


def test_removed_columns_never_exceed_the_target():
    model = pupil()
    method = IncReg(step=0.5, ceiling=1.0, limit=30, unit="column", remove=0.5)
    session = sct.Session(model, X, method=method, steps_per_epoch=40, epochs=1, shrink=False)
    optimizer = sgd(model)
    session.attach(optimizer)
    train(model, optimizer, 40)
    zero = {name: int((~mask).sum()) for name, mask in session.masks.items()}

    assert zero == {"stem.weight": 5, "first.weight": 36, "second.weight": 45, "down.weight": 36, "head.weight": 6}


def test_a_limit_before_the_ceiling_is_refused():
    with pytest.raises(InputError, match="can reach the ceiling"):
        IncReg(limit=10)
