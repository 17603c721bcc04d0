"""Laws of a session: it reaches its budget, resumes bit for bit, changes nothing that it does not own."""

import copy
import io
import json
from dataclasses import replace
from itertools import product

import pytest
import torch
from tests.laws.loops import (
    EPOCHS,
    HALF,
    LESSONS,
    METHODS,
    PER_EPOCH,
    STEPS,
    X,
    pupil,
    run,
    session,
    sgd,
    train,
)
from torch import nn
from torch.nn import functional as F

import secateurs as sct
from secateurs.errors import BudgetError, EvidenceError, InputError, SessionError
from secateurs.methods.adaptive import AdaptivePruning
from secateurs.methods.greg import GReg1, GReg2
from secateurs.methods.greg.growth import Growth
from secateurs.methods.group_fisher import GroupFisher
from secateurs.methods.increg import IncReg
from secateurs.methods.orthoreg import OrthoReg
from secateurs.methods.soft import ASRFP, SFP
from secateurs.session import Best, History

ONE_OF_EACH = {"GReg1", "GroupFisher", "SFP", "OrthoReg", "Gradual"}
"""One of each way to prune: by a penalty, by gradients, softly, by direction, in rounds; the others are slow."""

names = pytest.mark.parametrize(
    "name", [name if name in ONE_OF_EACH else pytest.param(name, marks=pytest.mark.slow) for name in METHODS]
)
shrinking = pytest.mark.parametrize("shrink", [True, False], ids=["shrinks", "masks"])
FEW = {("GReg1", True), ("SFP", False)}
"""One that shrinks and one that masks; the others are killed in the slow tier."""


def tensors(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def hooks(model):
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


# --- it prunes ---


@names
@shrinking
def test_every_method_ends_within_its_budget(name, shrink):
    """Any loop that only calls step ends with a smaller network, and the plan says which units it kept."""
    started = run(METHODS[name], shrink=shrink)
    dense = sct.trace(pupil(), X).cost()
    small = started.finish()
    x = LESSONS[0][0]

    assert sct.trace(small, X).cost().macs <= dense.macs // 2
    assert sct.trace(small, X).cost() == started.cost == started.graph.cost()
    assert small(x).shape == (12, 3)
    assert torch.isfinite(small(x)).all()
    assert hooks(small) == 0
    assert sum(len(u) for e in started.history.of("removed") for u in e.removed.values()) > 0
    fresh = sct.apply(started.plan, pupil())
    fresh.load_state_dict(small.state_dict())
    small.eval(), fresh.eval()
    assert torch.equal(fresh(x), small(x))


@names
def test_parameters_keep_their_identity(name):
    """The optimizer that was attached goes on training the pruned network, moments and all."""
    model = pupil()
    before = [id(p) for p in model.parameters()]
    started = session(model, METHODS[name])
    optimizer = sgd(model)
    started.attach(optimizer)
    train(model, optimizer)
    small = started.finish()

    assert small is model
    assert [id(p) for p in small.parameters()] == before
    assert all(optimizer.state[p]["momentum_buffer"].shape == p.shape for p in small.parameters())
    train(small, optimizer, 2)


@pytest.mark.parametrize("name", ["GReg1", "GReg2", "IncReg", "GroupFisher", "OrthoReg"])
def test_masked_and_shrunk_runs_are_one_run(name):
    """Removal equals silence through training: float64, same plan, same outputs, however early the network shrinks."""
    shrunk, masked = (run(METHODS[name], dtype=torch.float64, shrink=s) for s in (True, False))
    x = LESSONS[0][0].double()
    models = [shrunk.finish().eval(), masked.finish().eval()]

    assert shrunk.plan == masked.plan
    torch.testing.assert_close(models[0](x), models[1](x), rtol=1e-7, atol=1e-9)


# --- it resumes ---


@pytest.mark.parametrize(
    ("name", "shrink"),
    [pair if pair in FEW else pytest.param(*pair, marks=pytest.mark.slow) for pair in product(METHODS, (True, False))],
)
def test_a_killed_run_ends_as_the_one_that_was_not(name, shrink):
    """Killed at any step, saved through a file, resumed in a fresh model: the same bits at the end."""
    whole = run(METHODS[name], shrink=shrink)
    expected = tensors(whole.finish())
    for kill in (9, 23) if name == "AdaptivePruning" else (1, 9, 18, 23, 31):  # its rounds are the slowest
        model = pupil()
        first = session(model, METHODS[name], shrink=shrink)
        optimizer = sgd(model)
        first.attach(optimizer)
        train(model, optimizer, kill)
        file = io.BytesIO()
        torch.save(
            {"session": first.state_dict(), "model": model.state_dict(), "optimizer": optimizer.state_dict()}, file
        )
        file.seek(0)
        saved = torch.load(file, weights_only=True)

        model = pupil(seed=7)
        second = session(model, METHODS[name], shrink=shrink)
        second.load_state_dict(saved["session"])
        model.load_state_dict(saved["model"])
        optimizer = sgd(model)
        optimizer.load_state_dict(saved["optimizer"])
        second.attach(optimizer)
        train(model, optimizer, range(kill, STEPS))

        assert same(tensors(second.finish()), expected), f"killed at {kill}"
        assert str(second.history) == str(whole.history)


def test_history_survives_json():
    started = run(METHODS["GroupFisher"])

    assert list(History.from_rows(json.loads(json.dumps(started.history.rows())))) == list(started.history)
    assert "removed" in str(started.history)


# --- it changes nothing else ---


@names
def test_a_session_that_is_not_attached_changes_nothing(name):
    model = pupil()
    before, mode, state = tensors(model), model.training, torch.random.get_rng_state()
    session(model, METHODS[name])

    assert same(tensors(model), before)
    assert hooks(model) == 0
    assert model.training is mode
    assert torch.equal(torch.random.get_rng_state(), state)


@names
def test_detaching_lets_go_of_everything(name):
    model = pupil()
    started = session(model, METHODS[name])
    optimizer = sgd(model)
    started.attach(optimizer)
    train(model, optimizer, 3)
    started.detach()

    assert hooks(model) == 0
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    assert optimizer.param_groups[0]["weight_decay"] == 1e-4
    train(model, optimizer, 2)
    assert started.step == 3


@names
def test_the_loops_random_numbers_are_its_own(name):
    """Dropout and shuffling draw the same numbers with and without a session."""
    plain, optimizer = pupil(), None
    optimizer = sgd(plain)
    torch.manual_seed(3)
    train(plain, optimizer)
    expected = torch.random.get_rng_state()
    model = pupil()
    started = session(model, METHODS[name])
    optimizer = sgd(model)
    torch.manual_seed(3)
    started.attach(optimizer)
    train(model, optimizer)

    assert torch.equal(torch.random.get_rng_state(), expected)


# --- it sits inside any loop ---


def test_a_closure_is_a_step():
    """Optimizers that compute the gradient inside step (Lightning, LBFGS) get the penalty all the same."""
    plain = run(METHODS["GReg1"]).finish()
    model = pupil()
    started = session(model, METHODS["GReg1"])
    optimizer = sgd(model)
    started.attach(optimizer)
    model.train()
    for x, y in LESSONS:

        def closure(x=x, y=y):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            return loss

        optimizer.step(closure)

    assert same(tensors(started.finish()), tensors(plain))


def test_a_penalty_is_added_once_per_step_after_clipping():
    """Gradient accumulation and clipping happen before; the penalty is neither clipped nor repeated."""
    model = pupil()
    method = GReg1(Growth(step=0.5, ceiling=100.0, every=1), stabilise=0, remove=0.5)
    started = sct.Session(model, X, method=method, steps_per_epoch=100, epochs=10)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    started.attach(optimizer)
    model.eval()
    before = model.first.weight.detach().clone()
    for x, y in LESSONS[:3]:
        (F.cross_entropy(model(x), y) / 3).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1e-12)
    optimizer.step()
    chosen = before.abs().mean((1, 2, 3)).argsort()[:5]
    expected = before.clone()
    expected[chosen] *= 0.5

    torch.testing.assert_close(model.first.weight.detach(), expected)


def test_under_adam_the_penalty_is_decoupled():
    """Adam would normalise a coupled penalty to the size of the learning rate; decoupled, W shrinks by lr·λ."""
    model = pupil()
    method = GReg1(Growth(step=0.5, ceiling=100.0, every=1), stabilise=0, remove=0.5)
    started = sct.Session(model, X, method=method, steps_per_epoch=100, epochs=10)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1, eps=1e10)
    started.attach(optimizer)
    before = model.first.weight.detach().clone()
    train(model, optimizer, 1)
    ratio = (model.first.weight.detach() / before).mean((1, 2, 3))

    assert sorted(ratio.tolist())[:5] == pytest.approx([0.95] * 5, abs=1e-4)
    assert sorted(ratio.tolist())[5:] == pytest.approx([1.0] * 5, abs=1e-4)


def test_mixed_precision_with_a_scaler_changes_nothing_but_rounding():
    """GradScaler unscales before the step, so the penalty meets true gradients; a skipped step is not counted."""
    model = pupil().double()
    plain = run(METHODS["GReg1"], dtype=torch.float64).finish()
    started = session(model, METHODS["GReg1"])
    optimizer, scaler = sgd(model), torch.amp.GradScaler("cpu", init_scale=1024.0)
    started.attach(optimizer)
    model.train()
    for x, y in LESSONS:
        optimizer.zero_grad()
        scaler.scale(F.cross_entropy(model(x.double()), y)).backward()
        scaler.step(optimizer)
        scaler.update()

    torch.testing.assert_close(tensors(started.finish()), tensors(plain), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["GReg1", "IncReg", "OrthoReg", "DepGraph"])
def test_a_fused_optimizer_under_a_scaler_takes_the_same_step(name):
    """A fused step unscales inside its kernel, so that penalties meet scaled gradients: one place accounts for it."""
    method, ends = METHODS[name], []
    if name == "OrthoReg":
        method = replace(method, strength=1.0)
    for fused in (False, True):
        model = pupil()
        started = session(model, method)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, fused=fused)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=fused)
        started.attach(optimizer)
        model.train()
        for x, y in LESSONS[:3]:
            optimizer.zero_grad()
            scaler.scale(F.cross_entropy(model(x), y)).backward()
            scaler.step(optimizer)
            scaler.update()
        ends.append(tensors(model))

    plain = pupil()
    train(plain, torch.optim.SGD(plain.parameters(), lr=0.05), 3)
    moved = max(float((ends[0][n] - v).abs().max()) for n, v in tensors(plain).items() if v.is_floating_point())
    torch.testing.assert_close(ends[1], ends[0], rtol=0, atol=moved * 1e-2)


@pytest.mark.parametrize(
    "name", ["GroupFisher", "GReg1", "SFP", pytest.param("AdaptivePruning", marks=pytest.mark.slow)]
)
def test_averaged_copies_follow(name):
    """An EMA copy given to attach has the pruned shapes at the end, and is updated all along."""
    model = pupil()
    ema = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    started = session(model, METHODS[name])
    optimizer = sgd(model)
    started.attach(optimizer, ema=ema.module)
    for step in range(STEPS):
        train(model, optimizer, range(step, step + 1))
        ema.update_parameters(model)
    small = started.finish()

    assert [p.shape for p in ema.module.parameters()] == [p.shape for p in small.parameters()]
    assert ema.module(LESSONS[0][0]).shape == (12, 3)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # raised inside torch._dynamo itself
@pytest.mark.parametrize("name", ["GReg1", "GroupFisher"])
@pytest.mark.slow
def test_a_compiled_model_prunes_the_same(name):
    """torch.compile around the model: the same plan, shapes followed by recompiling."""
    expected = run(METHODS[name]).plan
    model = pupil()
    started = session(model, METHODS[name])
    optimizer = sgd(model)
    started.attach(optimizer)
    compiled = torch.compile(model, backend="eager")
    train(compiled, optimizer)
    started.finish()
    torch._dynamo.reset()

    assert started.plan == expected


def test_changing_batch_sizes_are_no_concern():
    """A short last batch, and batches of one, in a method that reads activations."""
    model = pupil()
    started = session(model, METHODS["GroupFisher"])
    optimizer = sgd(model)
    started.attach(optimizer)
    model.train()
    for step in range(STEPS):
        x, y = LESSONS[step]
        size = (12, 5, 2, 1)[step % 4]
        optimizer.zero_grad()
        F.cross_entropy(model(x[:size]), y[:size]).backward()
        optimizer.step()

    assert sct.trace(started.finish(), X).cost().macs <= sct.trace(pupil(), X).cost().macs // 2


# --- zeros instead of removal ---


@pytest.mark.parametrize("method", [GReg1(unit="weight"), GReg2(unit="weight"), SFP(unit="weight"), ASRFP(unit="weight")], ids=repr)  # fmt: skip  # noqa: E501
def test_single_weights_become_zeros_that_stay(method):
    """Unstructured pruning: the asked share of entries is zero, in the state that is saved, with a word on speed."""
    started = run(method.fitted(PER_EPOCH, EPOCHS), sct.Budget(params=0.5))
    small = started.finish()
    dense = sum(p.numel() for p in small.parameters())
    zeros = sum(int((p == 0).sum()) for p in small.parameters())

    assert dense - zeros <= dense // 2
    assert "do not run faster" in str(started.history)
    assert [p.shape for p in small.parameters()] == [p.shape for p in pupil().parameters()]


def test_columns_become_zeros_and_dead_channels_go():
    """IncReg's own units: columns of the im2col matrix are zero in every filter at once."""
    started = run(IncReg(unit="column", remove=0.6).fitted(PER_EPOCH, EPOCHS), None)
    small = started.finish()
    weight = small.second.weight.detach()
    columns = weight.flatten(1).ne(0).any(0)

    assert int((~columns).sum()) + 9 * (10 - weight.shape[1]) >= 0.6 * 90 - 1
    assert weight.flatten(1)[:, columns].ne(0).all(0).any()


def test_zeros_have_no_budget_in_macs():
    with pytest.raises(BudgetError, match="saves no MACs"):
        session(pupil(), SFP(unit="weight"), HALF)


# --- choosing ---


def test_the_best_checkpoint_is_a_pruned_one():
    """Scores of unpruned epochs are not accepted, however high; the kept weights come back."""
    model = pupil()
    started = session(model, METHODS["ASRFP"])
    optimizer = sgd(model)
    started.attach(optimizer)
    best = Best(started)
    with pytest.raises(SessionError, match="no pruned model"):
        best.restore()
    taken = []
    for epoch in range(EPOCHS):
        train(model, optimizer, range(epoch * PER_EPOCH, (epoch + 1) * PER_EPOCH))
        if best.offer(100.0 - epoch):
            taken.append(epoch)

    assert taken == [EPOCHS - 1]
    assert best.restore() == 100.0 - (EPOCHS - 1)
    assert sum(int((w == 0).all()) for w in model.first.weight) >= 3
    assert best.offer(0.0) is False


def test_soft_filters_are_ready_only_right_after_the_last_event():
    model = pupil()
    started = session(model, METHODS["ASFP"])
    optimizer = sgd(model)
    started.attach(optimizer)
    ready = []
    for step in range(STEPS):
        train(model, optimizer, range(step, step + 1))
        ready.append(started.ready)

    assert ready.index(True) == STEPS - 1


# --- what it refuses ---


def test_attaching_twice():
    model = pupil()
    started, other = session(model, METHODS["GReg1"]), session(model, METHODS["SFP"])
    optimizer = sgd(model)
    started.attach(optimizer)
    with pytest.raises(SessionError, match="attached already"):
        started.attach(optimizer)
    with pytest.raises(InputError, match="another session"):
        other.attach(optimizer)
    train(model, optimizer)
    started.finish()
    with pytest.raises(SessionError, match="finished"):
        started.attach(optimizer)
    with pytest.raises(SessionError, match="finished already"):
        started.finish()


def test_an_optimizer_of_another_model():
    model = pupil()
    started = session(model, METHODS["GReg1"])
    with pytest.raises(InputError, match="holds none of the model's parameters"):
        started.attach(sgd(copy.deepcopy(model)))
    with pytest.raises(InputError, match=r"does not hold .*first.weight"):
        started.attach(torch.optim.SGD([model.stem.weight, model.head.weight], lr=0.1))
    with pytest.raises(InputError, match="not a torch optimizer"):
        started.attach("sgd")
    optimizer = sgd(model)
    started.attach(optimizer)
    train(model, optimizer)
    started.finish()


@pytest.mark.parametrize("method", [GReg1(), GReg2(), IncReg(), GroupFisher(), OrthoReg(), AdaptivePruning(after=7.0)], ids=lambda m: type(m).__name__)  # fmt: skip  # noqa: E501
def test_a_schedule_that_cannot_end_in_time(method):
    """Refused before training, with the number of steps that it takes and how to scale it."""
    with pytest.raises(BudgetError, match=r"needs \d+ optimizer steps and the run has 40.*fitted"):
        session(pupil(), method, strict=True)


def test_the_number_of_steps_that_is_named_suffices():
    """A run of exactly the named length reaches the budget; one step less is refused."""
    for method in (METHODS["GReg1"], METHODS["GReg2"]):
        model = pupil()
        with pytest.raises(BudgetError):
            sct.Session(model, X, method=method, budget=HALF, steps_per_epoch=method.steps - 1, epochs=1, strict=True)
        started = sct.Session(model, X, method=method, budget=HALF, steps_per_epoch=method.steps, epochs=1)
        optimizer = sgd(model)
        started.attach(optimizer)
        train(model, optimizer, method.steps - 1)
        with pytest.raises(SessionError, match="within 1 more step"):
            started.finish()
        train(model, optimizer, 1)
        started.finish()


def test_a_loop_that_never_steps():
    model = pupil()
    started = session(model, METHODS["GReg1"]).attach(sgd(model))
    with pytest.raises(SessionError, match="never called"):
        started.finish()


@names
def test_finishing_early_says_what_is_missing(name):
    """The session goes on after the refusal, or decides at once when told to."""
    model = pupil()
    started = session(model, METHODS[name])
    optimizer = sgd(model)
    started.attach(optimizer)
    train(model, optimizer, 6)
    with pytest.raises(SessionError, match="after 6 of 40 steps"):
        started.finish()
    train(model, optimizer, range(6, 8))
    small = started.finish(early=True)

    assert sct.trace(small, X).cost().macs <= sct.trace(pupil(), X).cost().macs // 2


def test_steps_with_nan_gradients_are_skipped_and_counted():
    model = pupil()
    started = session(model, METHODS["GReg1"])
    optimizer = sgd(model)
    started.attach(optimizer)
    train(model, optimizer, 2)
    before = tensors(model)
    x, y = LESSONS[2]
    optimizer.zero_grad()
    (F.cross_entropy(model.eval()(x), y) * float("nan")).backward()
    optimizer.step()

    assert same(tensors(model), before)
    assert (started.skipped, started.step) == (1, 3)
    assert len(started.history.of("skipped")) == 1
    train(model, optimizer, range(3, STEPS))
    assert torch.isfinite(started.finish()(x)).all()


@pytest.mark.parametrize("dropped", [0, 2, 4])
def test_a_dropped_step_that_was_due_to_rise_still_rises(dropped):
    """A schedule keeps its length, whichever step had a gradient that was not finite."""
    method = GReg1(Growth(step=0.3, ceiling=1.0, every=2), stabilise=2, remove=0.3)
    model = pupil()
    started = sct.Session(model, X, method=method, steps_per_epoch=method.steps, epochs=1)
    optimizer = sgd(model)
    started.attach(optimizer)
    for step in range(method.steps):
        if step != dropped:
            train(model, optimizer, range(step, step + 1))
            continue
        optimizer.zero_grad()
        before = tensors(model)
        (F.cross_entropy(model.eval()(LESSONS[0][0]), LESSONS[0][1]) * float("nan")).backward()
        optimizer.step()
        assert same(tensors(model), before)

    assert started.skipped == 1
    assert started.finish()(X).shape == (1, 3)


def test_a_run_killed_between_picking_and_the_next_rise_resumes():
    """GReg-2 keeps the picked factors until the next rise; so does the run that resumes there."""
    growth, pick = Growth(step=0.2, ceiling=0.8, every=5), Growth(step=0.05, ceiling=0.1, every=5)
    method, ends = GReg2(growth, pick=pick, recover=-0.05, stabilise=2), []
    for kill in (40, 7, 9):
        model = pupil()
        first = session(model, method)
        optimizer = sgd(model)
        first.attach(optimizer)
        train(model, optimizer, kill)
        if kill < STEPS:
            assert first.history.of("picked")[0].step == 5
            state = copy.deepcopy((first.state_dict(), model.state_dict(), optimizer.state_dict()))
            model = pupil(seed=7)
            second = session(model, method)
            second.load_state_dict(state[0])
            model.load_state_dict(state[1])
            optimizer = sgd(model)
            optimizer.load_state_dict(state[2])
            second.attach(optimizer)
            train(model, optimizer, range(kill, STEPS))
            first = second
        ends.append(tensors(first.finish()))

    assert same(ends[1], ends[0])
    assert same(ends[2], ends[0])


def test_a_long_run_removes_one_unit_at_a_time():
    """Group Fisher's own rule where it reaches the budget in the run; more units an event only where it does not."""
    method = GroupFisher(every=2)
    long = session(pupil(), method)
    short = session(pupil(), GroupFisher(every=8))

    assert long.method == method
    assert (short.method.until, long.method.until) == (0.5, None)


def test_a_state_of_another_run():
    """Another network, another method, another budget or length: refused by name, nothing changed."""
    state = run(METHODS["GReg1"]).state_dict()
    wide = pupil()
    wide.head = nn.Linear(12, 5)
    with pytest.raises(InputError, match=r"another model: 'head.bias'"):
        session(wide, METHODS["GReg1"]).load_state_dict(state)
    with pytest.raises(InputError, match="saved with method"):
        session(pupil(), METHODS["GReg2"]).load_state_dict(state)
    with pytest.raises(InputError, match="saved with budget"):
        session(pupil(), METHODS["GReg1"], sct.Budget(macs=0.6)).load_state_dict(state)
    with pytest.raises(InputError, match="saved with clock"):
        session(pupil(), METHODS["GReg1"], epochs=EPOCHS + 1).load_state_dict(state)
    for nothing in ({"format": 99}, {}, None):
        with pytest.raises(InputError, match="format"):
            session(pupil(), METHODS["GReg1"]).load_state_dict(nothing)


def test_methods_that_measure_need_data():
    for name in ("OrthoReg", "AdaptivePruning"):
        with pytest.raises(EvidenceError, match="given no data"):
            session(pupil(), METHODS[name], data=None)


def test_a_method_of_one_shot_is_no_training_method():
    with pytest.raises(InputError, match="does not work during training"):
        session(pupil(), sct.criteria.Magnitude())


def test_a_class_is_no_method():
    with pytest.raises(InputError, match="SFP is a class"):
        session(pupil(), SFP)


def test_a_method_may_be_named():
    """By the names of the command line; an unknown one is told with what is near."""
    assert session(pupil(), "sfp").method == SFP()
    with pytest.raises(InputError, match="did you mean"):
        session(pupil(), "grreg1")


@pytest.mark.parametrize("method", [GReg1(), GReg2(), IncReg(), GroupFisher(), OrthoReg(samples=24)], ids=lambda m: type(m).__name__)  # fmt: skip  # noqa: E501
def test_a_schedule_is_fitted_to_the_run(method):
    """A method that is longer than the run is scaled to it, and the session says what it chose."""
    started = session(pupil(), method)

    assert started.method == method.fitted(PER_EPOCH, EPOCHS)
    assert started.history[0].what == "schedule"
    assert started.note in started.history[0].note
    assert started.note in repr(started)
    assert repr(method) != repr(started.method)
    assert all(part in started.note for part in repr(started.method).split("(", 1)[1].rstrip(")").split(", ") if part not in repr(method))  # fmt: skip  # noqa: E501


def test_a_schedule_that_fits_is_kept():
    method = GReg1(Growth(step=0.5, ceiling=1.0, every=2), stabilise=20)
    started = session(pupil(), method)

    assert method.fitted(PER_EPOCH, EPOCHS) != method
    assert started.method == method
    assert (started.note, len(started.history.of("schedule"))) == ("", 0)


@pytest.mark.parametrize("budget", [0.5, "half", {"macs": 0.5}])
def test_a_budget_says_what_remains_of_what(budget):
    with pytest.raises(InputError, match="Budget"):
        session(pupil(), METHODS["GReg1"], budget)


@names
def test_a_budget_below_the_smallest_network(name):
    """Refused when the session is made, not when training is over."""
    with pytest.raises(BudgetError):
        session(pupil(), METHODS[name], sct.Budget(macs=0.001))


def test_rates_and_budget_must_agree():
    with pytest.raises(BudgetError, match="contradict"):
        session(pupil(), SFP(remove=0.1), sct.Budget(macs=0.2))
    with pytest.raises(BudgetError, match="neither a budget nor removal rates"):
        session(pupil(), SFP(), None)
    with pytest.raises(InputError, match="names 'frist'"):
        session(pupil(), SFP(remove={"frist": 0.5}), None)
    with pytest.raises(InputError, match="not a removed share"):
        session(pupil(), SFP(remove=1.5), None)


def test_explicit_rates_are_the_papers():
    """remove=0.3 on 8, 10 and 12 filters: floor for SFP (2, 3, 3), ceil for GReg (3, 3, 4)."""
    soft = run(SFP(remove=0.3), None)
    grown = run(GReg1(remove=0.3).fitted(PER_EPOCH, EPOCHS), None)
    soft.finish()
    grown.finish()

    assert sorted(len(u) for u in soft.plan.keep.values()) == [6, 7, 9]
    assert sorted(len(u) for u in grown.plan.keep.values()) == [5, 7, 8]


def test_uncoupled_scope_leaves_the_stream_whole():
    started = run(GReg1(scope="uncoupled").fitted(PER_EPOCH, EPOCHS), sct.Budget(macs=0.7))
    started.finish()

    assert len(started.plan.keep["stem"]) == 8
    assert len(started.plan.keep["first"]) < 10


class Stem(nn.Module):
    """Two convolutions, the second of which begins a stream."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3)
        self.c, self.d = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = F.relu(self.b(F.relu(self.a(x))))
        return self.head((x + self.d(F.relu(self.c(x)))).mean((2, 3)))


def test_uncoupled_scope_reaches_what_a_stream_is_made_from():
    """The stream is named after the convolution that reads the first layer; that name does not spare the layer."""
    started = sct.Session(
        Stem(), X, method=SFP(scope="uncoupled"), budget=sct.Budget(macs=0.8), steps_per_epoch=PER_EPOCH, epochs=EPOCHS
    )
    units = started._driver._units

    assert units.ledger.names == ("a", "c")
    assert min(units.counts) > 0


def test_parameters_that_were_replaced_are_noticed():
    """FSDP replaces a module's parameters by shards; the session says so before it prunes the old ones."""
    model = pupil()
    started = session(model, METHODS["GReg1"])
    model.down.weight = nn.Parameter(model.down.weight.detach().clone())
    with pytest.raises(SessionError, match="FSDP"):
        started.attach(sgd(model))


@pytest.mark.gpu
@names
def test_a_model_may_move_to_a_gpu_before_it_is_attached(name):
    """Made on the CPU, trained on the device (as Lightning does); the network that results is within budget."""
    model = pupil()
    started = session(model, METHODS[name])
    model.cuda()
    optimizer = sgd(model)
    started.attach(optimizer)
    model.train()
    for x, y in LESSONS:
        optimizer.zero_grad()
        F.cross_entropy(model(x.cuda()), y.cuda()).backward()
        optimizer.step()

    assert started.finish()(X.cuda()).device.type == "cuda"
    assert started.cost.macs <= sct.trace(pupil(), X).cost().macs // 2
