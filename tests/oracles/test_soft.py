"""Soft pruning against a slow loop over filters, and the identities between its four methods."""

import pytest
import torch
from tests.laws.loops import EPOCHS, PER_EPOCH, X, pupil, sgd, train

import secateurs as sct
from secateurs.errors import BudgetError, InputError
from secateurs.methods.soft import ASFP, ASRFP, SFP, SRFP
from secateurs.session import ExponentialDecay


def trained(method, epochs=EPOCHS):
    """The weights after every epoch."""
    model = pupil()
    session = sct.Session(model, X, method=method, steps_per_epoch=PER_EPOCH, epochs=epochs)
    optimizer = sgd(model)
    session.attach(optimizer)
    found = []
    for epoch in range(epochs):
        train(model, optimizer, range(epoch * PER_EPOCH, (epoch + 1) * PER_EPOCH))
        found.append({name: value.clone() for name, value in model.state_dict().items()})
    return found, session


def slowly(rate, decay, remove, epochs=EPOCHS):
    """The authors' loop: every coupled group by itself, norms filter by filter, no engine."""
    groups = [["stem.weight", "second.weight"], ["first.weight"], ["down.weight"]]
    model = pupil()
    optimizer = sgd(model)
    found = []

    def event(t):
        last = t >= epochs - 1
        share, factor = (1.0, 0.0) if last else (rate(t, epochs), decay(t, epochs))
        for names in groups:
            weights = [dict(model.named_parameters())[name].detach() for name in names]
            units = len(weights[0])
            norms = [sum(float(w[i].square().sum()) for w in weights) ** 0.5 for i in range(units)]
            final = int(units * remove + 1e-9)
            count = final if share == 1.0 else int(units * (share * final / units) + 1e-9)
            for i in sorted(range(units), key=lambda i: norms[i])[:count]:
                for weight in weights:
                    weight[i] *= factor

    event(0)
    for epoch in range(epochs):
        train(model, optimizer, range(epoch * PER_EPOCH, (epoch + 1) * PER_EPOCH))
        event(epoch)
        found.append({name: value.clone() for name, value in model.state_dict().items()})
    return found


@pytest.mark.parametrize("method", [SFP(remove=0.4), ASFP(remove=0.4), SRFP(remove=0.4), ASRFP(remove=0.4)], ids=repr)
def test_a_run_is_the_authors_loop(method):
    """Ten epochs of training and events, weight for weight."""
    found, _ = trained(method)
    expected = slowly(method.rate, method.decay, 0.4)

    for epoch, (one, other) in enumerate(zip(found, expected, strict=True)):
        for name in one:
            torch.testing.assert_close(one[name], other[name], rtol=1e-4, atol=1e-6, msg=f"{name} after epoch {epoch}")


@pytest.mark.parametrize(
    ("softer", "hard"),
    [
        (SRFP(decay=ExponentialDecay(start=0.0), remove=0.4), SFP(remove=0.4)),
        (ASRFP(decay=ExponentialDecay(start=0.0), remove=0.4), ASFP(remove=0.4)),
    ],
    ids=["SRFP is SFP", "ASRFP is ASFP"],
)
def test_with_a_decay_from_zero_softer_is_soft(softer, hard):
    one, other = trained(softer)[0], trained(hard)[0]

    assert all(torch.equal(a[name], b[name]) for a, b in zip(one, other, strict=True) for name in a)


def test_zeroed_filters_train_on():
    """What makes it soft: a filter that was zero after an event has weights again one step later.

    Its gradient passes a norm and a rectifier, so the norm's shift must be positive, as it is in half of a trained
    network's channels; behind a shift of exactly 0, as in a fresh network, a zero filter is dead.
    """
    model = pupil()
    model.norm1.bias.data.fill_(0.1)
    session = sct.Session(model, X, method=SFP(remove=0.4), steps_per_epoch=PER_EPOCH, epochs=EPOCHS)
    optimizer = sgd(model)
    session.attach(optimizer)
    zero = [i for i in range(10) if not model.first.weight[i].any()]
    train(model, optimizer, 1)

    assert len(zero) == 4
    assert all(model.first.weight[i].any() for i in zero)


def test_events_follow_the_interval():
    """every=3: events before the first epoch, after the third, sixth and ninth, and after the last."""
    _, session = trained(SFP(every=3, remove=0.4))

    assert [e.epoch for e in session.history.of("softened")] == [0.0, 3.0, 6.0, 9.0, 10.0]


def test_scaling_the_norms_makes_removal_exact():
    """With the norm's scale and shift at zero too, a removed filter gave nothing: removal changes no output."""
    for method, exact in ((SFP(remove=0.4, norms=True, scope="uncoupled"), True), (SFP(remove=0.4), False)):
        _, session = trained(method)
        x = torch.randn(4, 1, 6, 6, generator=torch.Generator().manual_seed(0))
        if exact:
            session.model.down.bias.detach()[session.model.down.weight.flatten(1).abs().sum(1) == 0] = 0.0
        before = session.model.eval()(x)
        after = session.finish().eval()(x)

        assert torch.allclose(before, after, atol=1e-6) is exact


CONVOLUTIONS = ["stem.weight", "first.weight", "second.weight", "down.weight"]


def masked_slowly(rate, epochs):
    """The authors' loop: every convolution by itself, norms filter by filter, stream or not."""
    model = pupil()
    optimizer = sgd(model)
    weights = {name: p.detach() for name, p in model.named_parameters() if name in CONVOLUTIONS}

    def event():
        for weight in weights.values():
            norms = [float(f.norm()) for f in weight]
            for i in sorted(range(len(norms)), key=norms.__getitem__)[: int(len(norms) * rate + 1e-9)]:
                weight[i] = 0.0

    event()
    for epoch in range(epochs):
        train(model, optimizer, range(epoch * PER_EPOCH, (epoch + 1) * PER_EPOCH))
        event()
    return {name: weight.clone() for name, weight in weights.items()}


def test_independent_masks_are_the_authors():
    """Every convolution has ⌊C·P⌋ zero filters, those of the stream by themselves, weight for weight."""
    found, session = trained(SFP.preset("published", remove=0.4))
    expected = masked_slowly(0.4, EPOCHS)
    zeros = {name: int((found[-1][name].flatten(1) == 0).all(1).sum()) for name in CONVOLUTIONS}

    assert zeros == {"stem.weight": 3, "first.weight": 4, "second.weight": 3, "down.weight": 4}
    for name, weight in expected.items():
        torch.testing.assert_close(found[-1][name], weight, rtol=1e-4, atol=1e-6)
    assert session.ready


def test_what_independent_masks_leave():
    """Filters with one producer leave the network; a stream loses what all of its producers have lost; zeros stay."""
    found, session = trained(SFP.preset("published", remove=0.4))
    zero = {name: (found[-1][name].flatten(1) == 0).all(1) for name in CONVOLUTIONS}
    both = set((zero["stem.weight"] & zero["second.weight"]).nonzero().flatten().tolist())
    small = session.finish()
    x = torch.randn(4, 1, 6, 6)

    assert (len(session.plan.keep["first"]), len(session.plan.keep["down"])) == (6, 8)
    assert set(range(8)) - set(session.plan.keep["stem"]) == both
    assert int((small.stem.weight.flatten(1) == 0).all(1).sum()) == 3 - len(both)
    assert int((~session.masks["stem.weight"]).sum()) == 3 - len(both)
    assert small(x).shape == (4, 3)


def test_independent_masks_have_rates_and_no_budget():
    for method, budget, fact in (
        (SFP(scope="independent"), None, "Give remove="),
        (SFP(scope="independent", remove=0.4), sct.Budget(macs=0.5), "no budget says"),
    ):
        with pytest.raises(BudgetError, match=fact):
            sct.Session(pupil(), X, method=method, budget=budget, steps_per_epoch=PER_EPOCH, epochs=EPOCHS)
    with pytest.raises(InputError, match="whole filters"):
        SFP(scope="independent", unit="weight")
    with pytest.raises(InputError, match="names 'frist'"):
        trained(SFP(scope="independent", remove={"frist": 0.4}))
