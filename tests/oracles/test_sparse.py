"""Penalties, Sparsify and Gradual against the gradients and rankings of their papers, written out by hand."""

import pytest
import torch
from tests.laws.loops import EPOCHS, HALF, LESSONS, PER_EPOCH, STEPS, X, pupil, session, sgd, train

import secateurs as sct
from secateurs.criteria import Magnitude, Taylor
from secateurs.errors import BudgetError, EvidenceError, InputError
from secateurs.methods import DepGraph, Gradual, NetworkSlimming
from secateurs.session import L2, Cubic, Exponential, GroupNorm, Linear, OneShot, ScaleL1, Sparsify

GROUPS = {"stem": ("stem", "second"), "first": ("first",), "down": ("down",)}
READERS = {"stem": ("first", "down"), "first": ("second",), "down": ("head",)}
NORMS = {"stem": ("norm", "norm2"), "first": ("norm1",), "down": ()}


def added(method, optimizer=torch.optim.SGD, **settings):
    """What the session adds to every gradient in its first step, and the weights before it."""
    model = pupil()
    for norm in (model.norm, model.norm1, model.norm2):
        torch.nn.init.uniform_(norm.weight, -1.0, 1.0, generator=torch.Generator().manual_seed(5))
    started = session(model, method)
    made = optimizer(model.parameters(), lr=0.1, **settings)
    seen = {}
    made.register_step_pre_hook(lambda *_: seen.update({n: p.grad.clone() for n, p in model.named_parameters()}))
    started.attach(made)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    train(model, made, 1)
    return {name: p.grad - seen[name] for name, p in model.named_parameters()}, before


def test_network_slimming_adds_the_sign_of_every_scale():
    """Liu et al.: λ Σ |γ|, and nothing anywhere else."""
    found, weights = added(NetworkSlimming(ScaleL1(0.01)))

    for name, gradient in found.items():
        scale = name in {"norm.weight", "norm1.weight", "norm2.weight"}
        expected = 0.01 * weights[name].sign() if scale else torch.zeros_like(gradient)
        torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-6)


def test_depgraphs_penalty_is_the_papers():
    """γ_k W with γ from 1 (the largest group norm) to 2⁴ (the smallest), at producers, consumers and norms."""
    found, weights = added(DepGraph(GroupNorm(0.01)))
    expected = {name: torch.zeros_like(w) for name, w in weights.items()}
    for name, producers in GROUPS.items():
        parts = [weights[f"{n}.weight"].flatten(1) for n in producers]
        parts += [weights[f"{n}.weight"].transpose(0, 1).flatten(1) for n in READERS[name]]
        parts += [weights[f"{n}.weight"][:, None] for n in NORMS[name]]
        norms = torch.cat(parts, 1).norm(dim=1)
        gamma = 0.01 * 2 ** (4 * (norms.max() - norms) / (norms.max() - norms.min()))
        for n in producers:
            expected[f"{n}.weight"] += weights[f"{n}.weight"] * gamma.view(-1, 1, 1, 1)
        for n in READERS[name]:
            weight = weights[f"{n}.weight"]
            expected[f"{n}.weight"] += weight * gamma.view(1, -1, *[1] * (weight.dim() - 2))
        for n in NORMS[name]:
            expected[f"{n}.weight"] += weights[f"{n}.weight"] * gamma

    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-6, msg=name)


@pytest.mark.parametrize(
    ("penalty", "way"), [(L2(0.5), lambda w: w), (ScaleL1(0.5), torch.sign)], ids=["L2", "ScaleL1"]
)
def test_under_adam_a_penalty_is_decoupled(penalty, way):
    """W ← W − lr·λ·direction: the gradient stays what it was."""
    model = pupil()
    name = {"out": "first.weight", "scale": "norm1.weight"}[penalty.roles[0]]
    started = session(model, Sparsify(penalty, Magnitude()))
    made = torch.optim.Adam(model.parameters(), lr=0.1, eps=1e10)
    started.attach(made)
    before = model.get_parameter(name).detach().clone()
    train(model, made, 1)

    torch.testing.assert_close(
        model.get_parameter(name).detach(), before - 0.1 * 0.5 * way(before), rtol=1e-4, atol=1e-6
    )


def test_slimming_cuts_the_smallest_scales_of_the_whole_network():
    """Right before the cut the living and the removed are apart in |γ|, over all groups with a norm."""
    model = pupil()
    started = session(model, NetworkSlimming(ScaleL1(0.02), until=0.5), sct.Budget(macs=0.7), shrink=False)
    optimizer = sgd(model)
    started.attach(optimizer)
    seen = {}
    driver, cut = started._driver, started._driver._cut
    driver._cut = lambda why: seen.update(model.state_dict(keep_vars=False) | {"norm1.weight": model.norm1.weight.detach().clone()}) or cut(why)  # fmt: skip  # noqa: E501
    train(model, optimizer)
    gone = started.history.of("removed")[0]

    assert gone.step == STEPS // 2
    kept = sorted(set(range(10)) - set(gone.removed["first"]))
    assert gone.removed["first"]
    assert max(abs(seen["norm1.weight"][list(gone.removed["first"])])) <= min(abs(seen["norm1.weight"][kept]))


@pytest.mark.parametrize("schedule", [Cubic(), Linear(), Exponential(), OneShot()], ids=repr)
def test_gradual_rounds_follow_their_schedule(schedule):
    """After round k the network has lost schedule(k) of what the budget takes, and hardly more."""
    model = pupil()
    started = session(model, Gradual(rounds=4, schedule=schedule, end=0.8))
    optimizer = sgd(model)
    started.attach(optimizer)
    dense = sct.trace(pupil(), X).cost().macs
    train(model, optimizer)
    started.finish()
    events = started.history.of("removed")

    steps = [e.step for e in events]
    assert steps == ([8] if isinstance(schedule, OneShot) else [8, 16, 24, 32])[: len(steps)]
    assert len(steps) >= (1 if isinstance(schedule, OneShot) else 3)
    for event in events:
        goal = dense - schedule(event.step // 8, 4) * (dense - dense // 2)
        assert goal - 0.12 * dense < event.cost.macs <= goal


def test_gradual_takes_any_criterion():
    """Taylor reads the session's data; every round removes the lowest scores of the network as it is then."""
    model = pupil()
    started = session(model, Gradual(Taylor(), rounds=2))
    optimizer = sgd(model)
    started.attach(optimizer)
    train(model, optimizer)

    assert started.finish()(LESSONS[0][0]).shape == (12, 3)
    assert len(started.history.of("removed")) == 2
    with pytest.raises(EvidenceError, match="given none"):
        session(pupil(), Gradual(Taylor()), data=None)
    assert session(pupil(), NetworkSlimming(), data=None).phase == "penalised"


def test_one_round_at_the_end_is_one_shot_pruning():
    """Gradual with one round keeps what `plan` keeps of the trained network."""
    model = pupil()
    started = session(model, Gradual(Magnitude(), rounds=1, end=1.0))
    optimizer = sgd(model)
    started.attach(optimizer)
    train(model, optimizer)
    started.finish()
    twin = pupil()
    train(twin, sgd(twin))
    expected = sct.plan(sct.trace(twin, X), twin, criterion=Magnitude(), budget=HALF)

    assert started.plan == expected


def test_scopes_and_shares_are_checked():
    kept = session(pupil(), Gradual(scope="uncoupled"), sct.Budget(macs=0.7))
    optimizer = sgd(kept.model)
    kept.attach(optimizer)
    train(kept.model, optimizer)
    kept.finish()

    assert len(kept.plan.keep["stem"]) == 8
    with pytest.raises(BudgetError, match="neither a budget"):
        session(pupil(), Gradual(), None)
    with pytest.raises(InputError, match="shares of the run"):
        Gradual(begin=0.6)
    with pytest.raises(InputError, match="above 0"):
        Sparsify(L2(), Magnitude(), until=0.0)
    assert Gradual().steps(PER_EPOCH * EPOCHS)[-1] == STEPS // 2
