"""Data, losses, seeds and states that cannot be used: one sentence that names the batch or the argument."""

from itertools import count, islice

import pytest
import torch
from tests.laws.networks import Tied, images, made
from torch import nn

import secateurs as sct
from secateurs.errors import EvidenceError, InputError, ModelError, StoreError, TraceError
from secateurs.running import batches

HALF = sct.Budget(macs=0.5)
LABELS = torch.zeros(len(images()), dtype=torch.long)
BATCH = (images(), LABELS)


def pruned(**changed):
    given = {"method": "taylor", "budget": HALF, "data": [BATCH]} | changed
    return sct.prune(made(Tied), images(), **given)


def session(**changed):
    given = {"method": "greg1", "budget": HALF, "data": [BATCH], "steps_per_epoch": 10, "epochs": 4} | changed
    return sct.Session(made(Tied), images(), **given)


def recalibrated(data):
    return sct.recalibrate(made(Tied), data)


def random(seed):
    return sct.criteria.Random(seed=seed)


@pytest.mark.parametrize("seed", ["x", 1.5, None, True, -1, 2**63])
@pytest.mark.parametrize("verb", [pruned, session, random])
def test_a_seed_is_a_whole_number(verb, seed):
    with pytest.raises(InputError, match="is no seed"):
        verb(seed=seed)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (LABELS + 99, "batch 1 .*label 99 is no class: the model tells"),
        (LABELS - 5, "batch 1 .*label -5 is no class"),
        (LABELS[1:], "batch 1 .*batch_size"),
        (LABELS.double(), "batch 1 cannot be computed"),
    ],
)
def test_labels_that_do_not_fit_are_refused_with_their_batch(labels, words):
    with pytest.raises(EvidenceError, match=words):
        pruned(data=[BATCH, (images(), labels)])


def test_a_label_that_cross_entropy_skips_is_no_mistake():
    labels = LABELS.clone()
    labels[0] = -100

    assert pruned(data=[(images(), labels)]).plan == pruned(data=[(images(), labels.clone())]).plan


@pytest.mark.parametrize("verb", [pruned, session])
@pytest.mark.parametrize(("argument", "words"), [("data", "DataLoader"), ("loss", "a function of")])
def test_data_is_iterable_and_a_loss_callable(verb, argument, words):
    with pytest.raises(InputError, match=words):
        verb(**{argument: 3})


def endless():
    return (BATCH for _ in count())


@pytest.mark.parametrize("verb", [pruned, recalibrated])
def test_data_that_may_never_end_is_warned_of(verb, monkeypatch):
    """Data with a length is not, however long."""
    monkeypatch.setattr(batches, "ENDLESS", 3)
    verb(data=[BATCH] * 5)
    with pytest.warns(UserWarning, match="never ends"):
        verb(data=islice(endless(), 5))


def test_recovery_reads_as_much_of_an_endless_iterator_as_it_needs():
    """A criterion of the weights reads nothing, recovery its 2,048 images."""
    assert pruned(method="l1", data=endless(), recover=sct.Recalibrate()).cost_after.macs > 0


def test_an_iterator_serves_choosing_and_recovery():
    """It can be read once only, and gives what a list gives."""
    once = pruned(data=iter([BATCH] * 4), recover=sct.Recalibrate()).model
    twice = pruned(data=[BATCH] * 4, recover=sct.Recalibrate()).model

    assert all(torch.equal(a, b) for a, b in zip(once.state_dict().values(), twice.state_dict().values(), strict=True))


def test_a_batch_that_does_not_run_is_named_and_the_statistics_come_back():
    model = made(Tied)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(EvidenceError, match="did not run on batch 1"):
        sct.recalibrate(model, [images(), images()[:, :1]])

    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("part", ["skipped", "driver", "kept", "clock"])
def test_a_session_state_without_a_part_is_refused_before_anything_is_restored(part):
    state = session().state_dict()
    del state[part]
    other = session()
    with pytest.raises(InputError, match=f"lacks '{part}'"):
        other.load_state_dict(state)

    assert other.step == 0


def test_what_keeps_units_is_a_mapping():
    with pytest.raises(InputError, match="group name -> kept units"):
        sct.Plan.from_keep(sct.trace(made(Tied), images()), None)


def with_weight(weight):
    model = made(Tied)
    model.left.weight = nn.Parameter(weight(model.left.weight.detach()), requires_grad=False)
    return model


@pytest.mark.parametrize(
    ("weight", "words"),
    [(lambda w: w.to_sparse(), "left.weight has the layout"), (lambda w: w.to(torch.float8_e4m3fn), "float8_e4m3fn")],
    ids=["sparse", "float8"],
)
def test_weights_that_cannot_be_added_up_are_named(weight, words):
    with pytest.raises(ModelError, match=words):
        sct.prune(with_weight(weight), images(), method="l1", budget=HALF)


@pytest.mark.parametrize("place", ["a" * 5000, "a\0b"])
def test_a_path_that_no_folder_can_have_is_refused(place):
    with pytest.raises(StoreError, match="cannot be opened"):
        sct.load(made(Tied), place)


def test_modules_nested_deeper_than_pythons_stack_are_refused_with_the_limit_to_raise():
    model = nn.Linear(4, 4)
    for _ in range(240):
        model = nn.Sequential(model)
    with pytest.raises(TraceError, match="setrecursionlimit"):
        sct.trace(nn.Sequential(model, nn.Linear(4, 4)), torch.zeros(1, 4))
