"""GReg's growing penalty against the closed form on a quadratic and the authors' counts."""

import pytest
import torch
from tests.laws.loops import X, pupil, train

import secateurs as sct
from secateurs.errors import InputError
from secateurs.methods.greg import GReg1, GReg2
from secateurs.methods.greg.growth import Growth


def test_growing_l2_on_a_quadratic_sorts_by_curvature():
    """Gradient descent on ½ Σ h (w − w*)² + ½ λ Σ w² with a slowly growing λ follows w = h/(h + λ)·w*."""
    curvature = torch.tensor([0.5, 2.0, 8.0], dtype=torch.float64)
    best = torch.tensor([1.0, 1.0, 1.0], dtype=torch.float64)
    w = best.clone()
    growth = Growth(step=1e-3, ceiling=1.0, every=1)
    for rise in range(1, growth.rises + 1):
        for _ in range(20):
            w -= 0.1 * (curvature * (w - best) + growth.factor(rise) * w)

    expected = curvature / (curvature + growth.factor(growth.rises)) * best
    torch.testing.assert_close(w, expected, rtol=2e-3, atol=0)
    assert w[0] < w[1] < w[2]


def test_the_ceiling_is_crossed_at_the_published_count():
    """δλ = 1e-4, τ = 1: 10 000 rises reach τ, one more exceeds it: after 50 001 (K_u = 5) and 100 001 steps."""
    assert Growth(step=1e-4, ceiling=1.0, every=5).rises == 10_001
    assert Growth(step=1e-4, ceiling=1.0, every=5).steps == 50_001
    assert Growth(step=1e-4, ceiling=1.0, every=10).steps == 100_001
    assert Growth(step=1e-4, ceiling=1.0, every=10).factor(10_000) == 1.0
    assert Growth(step=1e-5, ceiling=0.01, every=10).rises == 1001


def test_a_factor_that_is_a_product_does_not_drift():
    """Ten thousand float32 additions of 1e-4 are off by far more than one step's rounding; the count is exact."""
    total = torch.tensor(0.0)
    for _ in range(10_000):
        total += 1e-4

    assert abs(float(total) - 1.0) > 1e-5
    assert Growth(step=1e-4, ceiling=1.0).factor(10_000) == pytest.approx(1.0, abs=1e-15)


def test_bad_growth_is_refused():
    for bad in (
        {"step": 0.0, "ceiling": 1.0},
        {"step": 1e-4, "ceiling": -1.0},
        {"step": 1e-4, "ceiling": 1.0, "every": 0},
    ):
        with pytest.raises(InputError, match="must be positive"):
            Growth(**bad)


def penalties(method, steps):
    """What the session adds to the gradient of `first.weight`, over the weight, per filter and step."""
    model = pupil()
    session = sct.Session(model, X, method=method, steps_per_epoch=steps, epochs=1, shrink=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    plain = {}
    optimizer.register_step_pre_hook(lambda *_: plain.update(grad=model.first.weight.grad.clone()))
    session.attach(optimizer)
    found = []

    def after(*_):
        added = (model.first.weight.grad - plain["grad"]) / weight["now"]
        found.append(added.mean((1, 2, 3)).tolist())

    weight = {}
    optimizer.register_step_pre_hook(lambda *_: weight.update(now=model.first.weight.detach().clone()))
    optimizer.register_step_pre_hook(after)
    for step in range(steps):
        train(model, optimizer, range(step, step + 1))
    return found, session


def test_greg1_grows_only_what_it_chose():
    """Chosen filters get n·δ from step (n − 1)·K on, the others nothing; then stabilise, then remove."""
    method = GReg1(Growth(step=0.1, ceiling=0.45, every=2), stabilise=3, remove={"first": 0.3})
    found, session = penalties(method, method.steps)
    chosen = {i for i in range(10) if i not in session.plan.keep["first"]}
    expected = [0.1, 0.1, 0.2, 0.2, 0.3, 0.3, 0.4, 0.4, 0.5, 0.5, 0.5, 0.5]

    assert len(chosen) == 3
    assert chosen == set(pupil().first.weight.abs().mean((1, 2, 3)).argsort()[:3].tolist())
    for step, want in enumerate(expected):
        assert [found[step][i] for i in sorted(chosen)] == pytest.approx([want] * 3, abs=1e-3)
        assert [found[step][i] for i in range(10) if i not in chosen] == pytest.approx([0.0] * 7, abs=1e-3)
    assert session.history.of("removed")[0].step == method.steps == 12


def test_greg2_picks_after_a_common_penalty_and_then_spares_the_kept():
    """All filters grow by δ_pick up to τ', then the chosen by δ from there; the kept get the constant recovery."""
    method = GReg2(
        Growth(step=0.1, ceiling=0.35, every=1), pick=Growth(step=0.05, ceiling=0.1, every=1),
        recover=-0.02, stabilise=2, remove={"first": 0.3},
    )  # fmt: skip
    found, session = penalties(method, method.steps)
    chosen = sorted(set(range(10)) - set(session.plan.keep["first"]))
    kept = [i for i in range(10) if i not in chosen]

    assert found[0] == pytest.approx([0.05] * 10, abs=1e-3)
    for step, want in enumerate([0.1, 0.2, 0.3, 0.4, 0.4], start=1):
        assert [found[step][i] for i in chosen] == pytest.approx([want] * 3, abs=1e-3)
        # set at the first rise after picking, not at the picking itself
        assert [found[step][i] for i in kept] == pytest.approx([0.1 if step == 1 else -0.02] * 7, abs=1e-3)
    assert session.history.of("removed")[0].step == method.steps


def test_the_magnitude_ratio_stops_the_growth_early():
    """Pure decay: the kept are 1000 times the chosen after t with ln 1000 = lr·δ·t²/2, about 83 steps here."""
    model = pupil()
    method = GReg1(Growth(step=0.02, ceiling=10.0, every=1), stabilise=1, remove=0.3)
    session = sct.Session(model, X, method=method, steps_per_epoch=600, epochs=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    session.attach(optimizer)
    for _ in range(130):
        optimizer.zero_grad()
        (model(X) * 0.0).sum().backward()
        optimizer.step()

    assert session.phase == "done"
    assert 83 <= session.history.of("removed")[0].step <= 115


def test_penalising_norms_is_an_option():
    """norms=True: the scale and shift behind a chosen filter shrink, too; by default they do not."""
    for norms in (False, True):
        model = pupil()
        method = GReg1(Growth(step=1.0, ceiling=9.0, every=1), stabilise=0, remove={"first": 0.3}, norms=norms)
        session = sct.Session(model, X, method=method, steps_per_epoch=20, epochs=1, shrink=False)
        session.attach(torch.optim.SGD(model.parameters(), lr=0.05))
        train(model, session._run.optimizers[0], 5)
        applied = session._driver._applied
        chosen = applied.state.chosen[applied.units.ledger.span("first")]
        scales = model.norm1.weight.detach()

        assert (float(scales[chosen].mean()) < 0.75) is norms
        assert float(scales[~chosen].mean()) > 0.9


def test_greg2_leaves_layers_that_lose_nothing_alone_while_it_picks():
    """The authors return before a layer whose rate is 0: no penalty, in any phase."""
    model = pupil()
    growth, pick = Growth(step=0.1, ceiling=0.35), Growth(step=0.05, ceiling=0.1)
    method = GReg2(growth, pick=pick, recover=-0.02, stabilise=2, remove={"first": 0.3})
    session = sct.Session(model, X, method=method, steps_per_epoch=method.steps, epochs=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    before = {}
    optimizer.register_step_pre_hook(lambda *_: before.update({n: p.grad.clone() for n, p in model.named_parameters()}))
    session.attach(optimizer)
    for step in range(4):
        train(model, optimizer, range(step, step + 1))

        assert torch.equal(model.down.weight.grad, before["down.weight"])
        assert torch.equal(model.stem.weight.grad, before["stem.weight"])
        assert not torch.equal(model.first.weight.grad, before["first.weight"])


def test_picking_ends_when_its_ceiling_is_reached():
    """⌈ceiling/step⌉ rises, as in the code: 0.1 in steps of 0.03 takes 4."""
    assert Growth(step=0.03, ceiling=0.1).climbs == 4
    assert Growth(step=1e-5, ceiling=0.01).climbs == 1000


@pytest.mark.parametrize("name", ["published", "published-imagenet"])
def test_the_published_settings(name):
    """K_u, K_s of the CIFAR and ImageNet commands, on layers with one producer."""
    one, two = GReg1.preset(name), GReg2.preset(name)

    assert one.scope == two.scope == "uncoupled"
    assert (one.growth.every, one.stabilise) == {"published": (10, 10_000), "published-imagenet": (5, 40_000)}[name]
    assert (two.pick.every, two.growth.every) == (one.growth.every,) * 2
    with pytest.raises(InputError, match="has no preset"):
        GReg1.preset("publish")
