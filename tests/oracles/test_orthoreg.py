"""OrthoReg's penalty and rounds against autograd, loops and matrices whose answer is known."""

import math

import pytest
import torch
from tests.laws.loops import HALF, LESSONS, PER_EPOCH, X, pupil, sgd, train

import secateurs as sct
from secateurs.errors import BudgetError, InputError
from secateurs.methods.orthoreg import EarlyBird, OrthoReg
from secateurs.methods.orthoreg.orthogonality import Orthonormal, layer_weights, orthogonality
from secateurs.session.flat_units import Rows
from secateurs.session.penalty import Applied
from secateurs.session.schedule import Position
from secateurs.session.scope import Units


def slow_penalty(matrix, norm):
    """Entry by entry, from the definition, on the smaller side."""
    rows, columns = matrix.shape
    side = matrix if rows < columns else matrix.T
    total = 0.0
    for a in range(side.shape[0]):
        for b in range(side.shape[0]):
            off = torch.dot(side[a], side[b]) - (1.0 if a == b else 0.0)
            total = total + (off.abs() if norm == "l1" else off**2)
    return total


def penalty_of(matrices, shares, norm):
    """Σ_l w_l Σ_ab |G_l − I| (or squares), differentiable."""
    grams = [m @ m.T if m.shape[0] < m.shape[1] else m.T @ m for m in matrices]
    offs = [g - torch.eye(len(g), dtype=g.dtype) for g in grams]
    return sum(w * (o.abs() if norm == "l1" else o.square()).sum() for w, o in zip(shares, offs, strict=True))


@pytest.mark.parametrize("norm", ["l1", "squared"])
@pytest.mark.parametrize("shape", [(3, 7), (7, 3), (4, 4), (1, 5)])
def test_the_gradient_of_one_layer_is_that_of_the_definition(shape, norm):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    expected = torch.autograd.grad(slow_penalty(matrix, norm), matrix)[0]
    (found,) = Orthonormal(1.0, norm).direction([matrix.detach()])

    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def layers_of(weights):
    """Units of named weights, with their gradients at one."""
    tensors = {name: torch.nn.Parameter(weight.detach()) for name, weight in weights.items()}
    for tensor in tensors.values():
        tensor.grad = torch.ones_like(tensor)
    rows = Rows.layers([name for name in tensors if name.endswith("weight")], tensors, biases=True)
    return tensors, Units("filter", rows, rows, (0,) * len(rows.ledger.names))


@pytest.mark.parametrize("norm", ["l1", "squared"])
def test_the_gradient_is_autograds(norm):
    """Several layers, equal and different shapes, one with a bias as a further column, in one call."""
    generator = torch.Generator().manual_seed(2)
    shapes = {"a.weight": (6, 3, 3, 3), "b.weight": (6, 3, 3, 3), "b.bias": (6,), "c.weight": (8, 6, 1, 1), "d.weight": (16, 8, 1, 1)}  # fmt: skip  # noqa: E501
    weights = {name: torch.randn(shape, generator=generator).requires_grad_() for name, shape in shapes.items()}
    matrices = [weights[f"{n}.weight"].flatten(1) for n in "abcd"]
    matrices[1] = torch.cat([matrices[1], weights["b.bias"][:, None]], 1)
    shares = layer_weights([shapes[f"{n}.weight"] for n in "abcd"])
    expected = torch.autograd.grad(0.01 * penalty_of(matrices, shares, norm), list(weights.values()))
    tensors, units = layers_of(weights)
    applied = Applied(Orthonormal(0.01, norm), units)
    applied.add([torch.optim.SGD(tensors.values(), lr=1.0)], Position(0, 1))

    for tensor, want in zip(tensors.values(), expected, strict=True):
        torch.testing.assert_close(tensor.grad - 1.0, want, rtol=1e-4, atol=1e-6)


def test_gradient_descent_on_the_penalty_makes_filters_orthonormal():
    weight = torch.randn(8, 20, generator=torch.Generator().manual_seed(3)) * 0.3
    before = orthogonality(weight)
    for step in range(600):
        weight -= (0.02 if step < 500 else 0.005) * Orthonormal(1.0, "squared").direction([weight])[0]

    assert before < 0.6
    assert orthogonality(weight) > 0.999
    assert float(penalty_of([weight], [1.0], "l1")) < 1e-3
    assert orthogonality(torch.linalg.qr(torch.randn(9, 4)).Q) == pytest.approx(1.0)


def test_half_precision_does_not_overflow():
    """512² entries of size one sum to more than float16 holds; the product runs in float32."""
    (found,) = Orthonormal(1.0).direction([torch.full((512, 512), 1.0, dtype=torch.float16)])

    assert torch.isfinite(found).all()
    assert float(found[0, 0]) == pytest.approx(2 * 512, rel=1e-2)


@pytest.mark.parametrize(
    ("shapes", "sizes"),
    [
        ([(64, 3, 3, 3), (64, 64, 3, 3), (128, 64, 3, 3)], [64, 64, 128]),  # VGG-13: √filters, stem too
        ([(64, 3, 3, 3), (128, 64, 3, 3), (128, 64, 1, 1)], [64, 128, 64]),  # ResNet-34: shortcut √(min side)
        ([(32, 3, 3, 3), (32, 1, 3, 3), (64, 32, 1, 1), (512, 512, 1, 1)], [32, 32, 32, 512]),  # MobileNet-V1
    ],
    ids=["VGG", "ResNet", "MobileNet"],
)
def test_layer_weights_are_the_published_ones(shapes, sizes):
    """√ of these sizes over their sum, as the authors' three training loops have them."""
    roots = [math.sqrt(size) for size in sizes]

    assert layer_weights(shapes) == pytest.approx([root / sum(roots) for root in roots])
    assert layer_weights([(64, 3, 3, 3), (16, 1, 3, 3)], by="smaller-side") == pytest.approx(
        (math.sqrt(27) / (math.sqrt(27) + 3), 3 / (math.sqrt(27) + 3))
    )


def test_a_square_pointwise_layer_uses_the_inner_products_of_its_columns():
    """The code's AᵀA: its gradient on a square matrix is another than that of AAᵀ."""
    matrix = torch.randn(6, 6, generator=torch.Generator().manual_seed(8)).requires_grad_()
    (found,) = Orthonormal(1.0).direction([matrix.detach().view(6, 6, 1, 1)])
    columns, rows = (
        torch.autograd.grad((gram - torch.eye(6)).abs().sum(), matrix)[0]
        for gram in (matrix.T @ matrix, matrix @ matrix.T)
    )

    torch.testing.assert_close(found.view(6, 6), columns, rtol=1e-4, atol=1e-5)
    assert float(torch.cosine_similarity(columns.flatten(), rows.flatten(), 0)) < 0.95


def test_a_tensor_that_is_no_matrix_is_refused():
    with pytest.raises(InputError, match="needs a matrix"):
        orthogonality(torch.zeros(2, 3, 3))


# --- the driver ---


def started(method, model, epochs=12, **options):
    session = sct.Session(
        model,
        X,
        method=method,
        budget=HALF,
        steps_per_epoch=PER_EPOCH,
        epochs=epochs,
        data=LESSONS,
        strict=True,
        **options,
    )
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
        convs = (model.stem, model.first, model.second, model.down)
        degrees.append(sum(orthogonality(conv.weight.flatten(1)) for conv in convs) / 4)

    assert degrees[1] > degrees[0] + 0.1


def test_the_cut_is_the_global_ranking_of_first_order_importance():
    """(Σ θ·g)² per filter from one mean gradient in eval mode, coupled producers summed before squaring."""
    model = pupil()
    session, optimizer = started(OrthoReg(ortho_epochs=1, samples=10_000, floor=0.0), model, shrink=False)
    train(model, optimizer, PER_EPOCH - 1)
    hook = {}
    surplus = session._driver._surplus
    session._driver._surplus = lambda done, scores: hook.update(scores) or surplus(done, scores)
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
    session, optimizer = started(OrthoReg(rounds=2, ortho_epochs=2, retrain_epochs=1), model)
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


def test_a_history_says_how_many_samples_importance_comes_from():
    """Data may end before the paper's 10 000: the number that was read is written down."""
    notes = []
    for samples in (20, 10_000):
        model = pupil()
        session, optimizer = started(OrthoReg(ortho_epochs=1, samples=samples), model)
        train(model, optimizer, PER_EPOCH)
        notes.append(session.history.of("removed")[0].note)

    assert "from 24 samples" in notes[0]
    assert f"from {12 * len(LESSONS)} samples" in notes[1]


def test_a_floor_is_the_networks_not_the_scores():
    """A budget below the floors is refused before training; without a floor it is met."""
    model = pupil()
    with pytest.raises(BudgetError, match="smallest network"):
        started(OrthoReg(ortho_epochs=1, floor=0.9), model)
    session, _ = started(OrthoReg.preset("published-resnet"), pupil(), epochs=25)

    assert session.method.floor == 0.0
