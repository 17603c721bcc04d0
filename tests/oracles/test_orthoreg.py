"""OrthoReg's penalty and rounds against autograd, loops and matrices whose answer is known."""

import math

import pytest
import torch
from tests.laws.loops import HALF, LESSONS, PER_EPOCH, X, pupil, sgd, train

import secateurs as sct
from secateurs.errors import InputError
from secateurs.methods.orthoreg import EarlyBird, OrthoReg, ShrinkingRounds
from secateurs.methods.orthoreg.method import degrees_of_orthogonality
from secateurs.methods.orthoreg.orthogonality import (
    Layer,
    add_gram_gradient,
    gram_penalty,
    layer_weights,
    orthogonality,
)


def slow_penalty(matrix, norm):
    """Entry by entry, from the definition, on the smaller side."""
    rows, columns = matrix.shape
    side = matrix if rows <= columns else matrix.T
    total = 0.0
    for a in range(side.shape[0]):
        for b in range(side.shape[0]):
            off = torch.dot(side[a], side[b]) - (1.0 if a == b else 0.0)
            total = total + (off.abs() if norm == "l1" else off**2)
    return total


@pytest.mark.parametrize("norm", ["l1", "squared"])
@pytest.mark.parametrize("shape", [(3, 7), (7, 3), (4, 4), (1, 5)])
def test_the_penalty_is_its_definition(shape, norm):
    matrix = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    assert float(gram_penalty([matrix], [1.0], norm=norm)) == pytest.approx(float(slow_penalty(matrix, norm)))


@pytest.mark.parametrize("norm", ["l1", "squared"])
@pytest.mark.parametrize("shape", [(4, 9), (9, 4)])
def test_an_orthonormal_matrix_costs_nothing_and_a_zero_matrix_its_smaller_side(shape, norm):
    rows = torch.linalg.qr(torch.randn(9, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))).Q
    matrix = rows if shape == (9, 4) else rows.T

    assert float(gram_penalty([matrix], [1.0], norm=norm)) == pytest.approx(0.0, abs=1e-12)
    assert float(gram_penalty([torch.zeros(shape)], [1.0], norm=norm)) == 4.0
    assert orthogonality(matrix) == pytest.approx(1.0)


@pytest.mark.parametrize("norm", ["l1", "squared"])
def test_the_gradient_is_autograds(norm):
    """Several layers, equal and different shapes, convolutions and a linear layer, in one call."""
    generator = torch.Generator().manual_seed(2)
    shapes = [(6, 3, 3, 3), (6, 3, 3, 3), (8, 6, 1, 1), (16, 8, 1, 1), (5, 16)]
    weights = [torch.randn(shape, dtype=torch.float32, generator=generator).requires_grad_() for shape in shapes]
    share = layer_weights([(w.shape[0], w.flatten(1).shape[1]) for w in weights])
    penalty = gram_penalty([w.flatten(1) for w in weights], share, norm=norm)
    expected = torch.autograd.grad(0.01 * penalty, weights)
    grads = [torch.ones_like(w) for w in weights]

    add_gram_gradient(
        [Layer(w.detach(), g) for w, g in zip(weights, grads, strict=True)], share, strength=0.01, norm=norm
    )

    for grad, want in zip(grads, expected, strict=True):
        torch.testing.assert_close(grad - 1.0, want, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("norm", ["l1", "squared"])
def test_a_bias_is_a_further_column(norm):
    """VGG's convolutions have a bias: A = [W | b], and both get their part of the gradient."""
    generator = torch.Generator().manual_seed(4)
    weight = torch.randn(5, 2, 3, 3, generator=generator).requires_grad_()
    bias = torch.randn(5, generator=generator).requires_grad_()
    penalty = gram_penalty([torch.cat([weight.flatten(1), bias[:, None]], 1)], [1.0], norm=norm)
    expected = torch.autograd.grad(penalty, [weight, bias])
    grads = [torch.zeros(5, 2, 3, 3), torch.zeros(5)]

    add_gram_gradient([Layer(weight.detach(), grads[0], bias.detach(), grads[1])], [1.0], strength=1.0, norm=norm)

    torch.testing.assert_close(grads, list(expected), rtol=1e-4, atol=1e-5)


def test_gradient_descent_on_the_penalty_makes_filters_orthonormal():
    weight = torch.randn(8, 20, generator=torch.Generator().manual_seed(3)) * 0.3
    before = orthogonality(weight)
    for step in range(600):
        grad = torch.zeros_like(weight)
        add_gram_gradient([Layer(weight, grad)], [1.0], strength=1.0, norm="squared")
        weight -= (0.02 if step < 500 else 0.005) * grad

    assert before < 0.6
    assert orthogonality(weight) > 0.999
    assert float(gram_penalty([weight], [1.0])) < 1e-3


def test_half_precision_does_not_overflow():
    """512² entries of size one sum to more than float16 holds; the product runs in float32."""
    weight = torch.full((512, 512), 1.0, dtype=torch.float16)
    grad = torch.zeros_like(weight)
    add_gram_gradient([Layer(weight, grad)], [1.0], strength=1e-4, norm="l1")

    assert torch.isfinite(grad).all()
    assert float(grad[0, 0]) == pytest.approx(2 * 512 * 1e-4, rel=1e-2)


def test_layer_weights_are_the_published_ones():
    """VGG-13: √rows; 0.050 ×2, 0.070 ×2, 0.099 ×2, 0.140 ×4, and they sum to one."""
    shares = layer_weights([(n, 9 * n) for n in (64, 64, 128, 128, 256, 256, 512, 512, 512, 512)], by="rows")

    assert [round(s, 3) for s in shares] == [0.05, 0.05, 0.07, 0.07, 0.099, 0.099, 0.14, 0.14, 0.14, 0.14]
    assert sum(shares) == pytest.approx(1.0)
    assert layer_weights([(64, 27), (16, 9)]) == pytest.approx(
        (math.sqrt(27) / (math.sqrt(27) + 3), 3 / (math.sqrt(27) + 3))
    )


def test_a_tensor_that_is_no_matrix_is_refused():
    with pytest.raises(InputError, match="needs a matrix"):
        gram_penalty([torch.zeros(2, 3, 3)], [1.0])


# --- the driver ---


def started(method, model, epochs=12, **options):
    session = sct.Session(model, method, HALF, X, steps_per_epoch=PER_EPOCH, epochs=epochs, data=LESSONS, **options)
    optimizer = sgd(model)
    session.attach(optimizer)
    return session, optimizer


def test_the_penalty_acts_in_its_epochs_only_and_weight_decay_rests():
    """In the penalised epochs the gradient carries λ_o·dR/dW and weight decay is zero; afterwards neither."""
    model = pupil()
    session, optimizer = started(OrthoReg(ortho_epochs=2), model)
    decays = []
    for step in range(5 * PER_EPOCH):
        train(model, optimizer, range(step, step + 1))
        decays.append(optimizer.param_groups[0]["weight_decay"])

    assert decays == [0.0] * 2 * PER_EPOCH + [1e-4] * 3 * PER_EPOCH
    assert session.history.of("removed")[0].step == 2 * PER_EPOCH


def test_the_penalty_makes_filters_more_orthogonal():
    """Same loop with and without: the mean degree of orthogonality rises."""
    degrees = []
    for strength in (1e-12, 1.0):
        model = pupil()
        _, optimizer = started(OrthoReg(strength=strength, ortho_epochs=12), model)
        train(model, optimizer, 12 * PER_EPOCH - 1)
        degrees.append(sum(degrees_of_orthogonality(model).values()) / 4)

    assert degrees[1] > degrees[0] + 0.1


def test_the_cut_is_the_global_ranking_of_first_order_importance():
    """(Σ θ·g)² per filter from one mean gradient in eval mode, coupled producers summed before squaring."""
    model = pupil()
    session, optimizer = started(OrthoReg(ortho_epochs=1, samples=10_000, floor=0.0), model, shrink=False)
    train(model, optimizer, PER_EPOCH - 1)
    hook = {}
    allocate = session._driver._allocate
    session._driver._allocate = lambda at, scores: hook.update(scores) or allocate(at, scores)
    train(model, optimizer, range(PER_EPOCH - 1, PER_EPOCH))
    twin = pupil()
    state = {k: v.clone() for k, v in model.state_dict().items()}

    # the weights right before the cut are those after this step, with the removed ones back: run the step again
    again = pupil()
    _, optimizer2 = started(OrthoReg(ortho_epochs=9), again)
    train(again, optimizer2, PER_EPOCH)
    twin.load_state_dict(again.state_dict())
    twin.eval()
    assert state.keys() == twin.state_dict().keys()
    loss = sum(torch.nn.functional.cross_entropy(twin(x), y, reduction="sum") for x, y in LESSONS) / (12 * len(LESSONS))
    grads = dict(
        zip([n for n, _ in twin.named_parameters()], torch.autograd.grad(loss, list(twin.parameters())), strict=True)
    )
    weights = dict(twin.named_parameters())

    def change(name):
        return (weights[name] * grads[name]).flatten(1).sum(1)

    expected = {
        "stem": (change("stem.weight") + change("second.weight")).square(),
        "first": change("first.weight").square(),
        "down": (change("down.weight") + weights["down.bias"] * grads["down.bias"]).square(),
    }
    for name, want in expected.items():
        torch.testing.assert_close(hook[name], want.detach().double(), rtol=1e-3, atol=1e-9)
    flat = sorted((float(v), name, i) for name, scores in hook.items() for i, v in enumerate(scores))
    gone = session.history.of("removed")[0].removed
    removed = {(name, unit) for name, units in gone.items() for unit in units}
    assert removed == {(name, unit) for _, name, unit in flat[: len(removed)]}


def test_rounds_share_the_removal_as_published():
    """Two rounds to half the MACs: r = 1/3 and 1/4 of what is left; the second meets the budget."""
    model = pupil()
    session, optimizer = started(OrthoReg(rounds=ShrinkingRounds(2), ortho_epochs=2, retrain_epochs=1), model)
    train(model, optimizer, 8 * PER_EPOCH)
    dense = sct.trace(pupil(), X).cost().macs
    left = [event.cost.macs / dense for event in session.history.of("removed")]

    assert [event.step for event in session.history.of("removed")] == [2 * PER_EPOCH, 5 * PER_EPOCH]
    assert 0.6 < left[0] <= 2 / 3
    assert 0.45 < left[1] <= 0.5


def test_the_floor_keeps_the_best_filters():
    model = pupil()
    session, optimizer = started(OrthoReg(ortho_epochs=1, floor=0.4), model)
    train(model, optimizer, 2 * PER_EPOCH)
    session.finish()

    assert all(len(units) >= 0.4 * n for units, n in zip(session.plan.keep.values(), (8, 10, 12), strict=True))


def test_an_early_bird_ticket_is_drawn_when_masks_settle():
    """Within the distance of the masks before it: cut before the penalised epochs are over; never with distance < 0."""
    steps = []
    for distance in (1.0, -1.0):
        model = pupil()
        method = OrthoReg(ortho_epochs=8, ticket=EarlyBird(distance=distance, window=3))
        session, optimizer = started(method, model)
        train(model, optimizer, 10 * PER_EPOCH)
        steps.append(session.history.of("removed")[0].step)

    assert steps == [3 * PER_EPOCH, 8 * PER_EPOCH]


def test_squaring_per_batch_is_another_score():
    cuts = []
    for reduction in ("mean_then_square", "square_then_mean"):
        model = pupil()
        session, optimizer = started(OrthoReg(ortho_epochs=1, reduction=reduction), model)
        train(model, optimizer, PER_EPOCH)
        cuts.append(session.history.of("removed")[0].removed)

    assert cuts[0] != cuts[1]
