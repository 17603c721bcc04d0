"""Every law over every micro-network: never a crash, never a wrong result, never silently nothing."""

import functools
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from tests.zoo import laws
from tests.zoo.laws import LawError, Subject
from tests.zoo.micro import MICRO, Micro, Prunable
from torch import nn

import secateurs as sct

BATCH_NORM = next(micro for micro in MICRO if micro.name == "batch_norm")
EVERY = pytest.mark.parametrize("micro", MICRO, ids=lambda micro: micro.name)
EVERY_FOURTH = pytest.mark.parametrize(
    "micro",
    [micro if k % 4 == 0 else pytest.param(micro, marks=pytest.mark.slow) for k, micro in enumerate(MICRO)],
    ids=lambda micro: micro.name,
)
"""The others in the slow tier: removal is silence, facts and partition are checked for all in the default tier."""


@functools.cache
def subject_of(micro: Micro) -> Subject:
    """One subject, and so one trace, for all laws."""
    return micro.subject()


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@EVERY
def test_every_channel_is_prunable_or_protected_with_a_reason(micro: Micro):
    """No channel is forgotten: it is in a group, or a protection says which operator or module forbids it."""
    subject = subject_of(micro)

    laws.check_partition(subject)

    if micro.watch:
        assert [] == laws.unaccounted(subject, micro.watch, 0).tolist(), f"{micro.name}: forgotten in {micro.watch}"
    names = [name for name, _ in subject.build().named_modules() if name] + list(subject.shapes)
    named = re.compile("|".join([r"\bat \w+\.\w+", "input", "output", "never used", *map(re.escape, names)]))
    for protection in subject.graph.protected:
        assert named.search(protection.reason), f"{micro.name}: {protection}"


@EVERY
def test_expected_facts(micro: Micro):
    """What can be pruned is found; what cannot is protected for the right reason."""
    graph = subject_of(micro).graph
    for fact in micro.expect:
        holding = [g for g in graph.groups if any((s.tensor, s.dim) == (fact.tensor, fact.dim) for s in g.slices)]
        found = [(g.units, g.exact) for g in holding]
        reasons = [p.reason for p in graph.protected if (p.tensor, p.dim) == (fact.tensor, fact.dim)]
        if isinstance(fact, Prunable):
            fitting = [g for g in holding if g.units >= fact.units and fact.exact in (None, g.exact)]
            assert fitting, f"{micro.name}: wants {fact}; groups (units, exact): {found}; protected: {reasons[:3]}"
        else:
            assert not holding, f"{micro.name}: wants {fact}; groups (units, exact): {found}"
            assert any(re.search(fact.words, reason) for reason in reasons), f"{micro.name}: {fact}: {reasons[:3]}"


@EVERY_FOURTH
def test_laws_hold(micro: Micro):
    """Laws 1, 2, 4, 6 and 7 (an optimizer made before), on a trace of the network in train mode."""
    laws.check_all(micro.subject())


@EVERY
@pytest.mark.parametrize("seed", [1, 2])
def test_removal_equals_silence(micro: Micro, seed: int):
    """Law 1, at two input sizes; and the removal is not one that changes nothing anyway."""
    seen = laws.check_removal(subject_of(micro), np.random.default_rng(seed))

    assert seen.removed == 0 or seen.moved > 1e-6


@EVERY_FOURTH
def test_the_mode_does_not_matter(micro: Micro):
    """A model in train mode has the groups that it has in eval mode."""
    assert laws.footprints(subject_of(micro).graph) == laws.footprints(laws.traced_purely(micro.subject()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_plan_holds_in_another_precision(dtype: torch.dtype):
    """A plan speaks of names: one made on a float64 network prunes the same network in float32 or bfloat16."""
    subject = BATCH_NORM.subject()
    (group,) = subject.graph.groups
    plan = sct.Plan.from_keep(subject.graph, {group.name: [0, 3, 5]})

    pruned = sct.apply(plan, subject.build().to(dtype))

    assert pruned.conv1.weight.shape[0] == 3
    assert pruned(subject.inputs.to(dtype)).dtype == dtype


def _permute_a_bias(model: nn.Module) -> nn.Module:
    model.conv1.bias.data = model.conv1.bias.data.roll(1)
    return model


def _replace_a_parameter(model: nn.Module) -> nn.Module:
    model.conv1.bias = nn.Parameter(model.conv1.bias.detach().clone())
    return model


def _change_the_last_bit(model: nn.Module) -> nn.Module:
    model.layer.running_mean.mul_(1 + 1e-15)
    return model


def _widen_the_output(model: nn.Module) -> nn.Module:
    model.conv2.weight.data = torch.cat([model.conv2.weight.data] * 2)
    model.conv2.bias.data = torch.cat([model.conv2.bias.data] * 2)
    return model


def _freeze(model: nn.Module) -> nn.Module:
    return model.requires_grad_(False)


@pytest.mark.parametrize(
    ("verb", "spoil", "law"),
    [
        pytest.param("apply", _permute_a_bias, lambda s: laws.check_removal(s, rng()), id="other channels"),
        pytest.param("mask", _permute_a_bias, lambda s: laws.check_removal(s, rng()), id="other silence"),
        pytest.param("apply", _widen_the_output, lambda s: laws.check_interface(s, rng()), id="another interface"),
        pytest.param("apply", _freeze, lambda s: laws.check_training(s, rng()), id="no training"),
        pytest.param("apply", _change_the_last_bit, laws.check_identity, id="another bit"),
        pytest.param("apply", _permute_a_bias, lambda s: laws.check_composition(s, rng()), id="other order"),
        pytest.param("apply", _widen_the_output, lambda s: laws.check_cost(s, rng()), id="another cost"),
        pytest.param("apply", _replace_a_parameter, lambda s: laws.check_parameter_identity(s, rng()), id="new object"),
        pytest.param("apply", nn.Module.train, lambda s: laws.check_parameter_identity(s, rng()), id="another mode"),
    ],
)
def test_the_laws_notice(monkeypatch: pytest.MonkeyPatch, verb: str, spoil: Callable, law: Callable):
    """A verb that spoils its result breaks a law: the tests above can fail."""
    subject, honest = BATCH_NORM.subject(), getattr(sct, verb)
    law(subject)
    monkeypatch.setattr(sct, verb, lambda *arguments: spoil(honest(*arguments)))

    with pytest.raises(LawError, match="batch_norm"):
        law(subject)


TRACES = {
    "mode": lambda model: model.eval(),
    "generator": lambda model: torch.rand(1),
    "gradient": lambda model: model.conv1.weight.grad.add_(1),
    "hook": lambda model: model.conv1.register_forward_hook(lambda *_: None),
    "buffer": lambda model: model.layer.running_mean.mul_(1 + 1e-15),
    "parameter": lambda model: setattr(model.conv1, "bias", nn.Parameter(model.conv1.bias.detach().clone())),
    "attribute": lambda model: setattr(model, "seen", True),
    "requires_grad": lambda model: model.conv2.requires_grad_(False),
    "switch": lambda model: torch.backends.mha.set_fastpath_enabled(value=False),
}


@pytest.mark.parametrize("what", TRACES)
def test_purity_notices(monkeypatch: pytest.MonkeyPatch, what: str):
    """A trace that leaves anything behind breaks the law of purity."""
    subject, honest = BATCH_NORM.subject(), sct.trace
    laws.check_purity(subject)

    def trace(model, inputs):
        graph = honest(model, inputs)
        TRACES[what](model)
        return graph

    monkeypatch.setattr(sct, "trace", trace)
    try:
        with pytest.raises(LawError, match="trace changed"):
            laws.check_purity(subject)
    finally:
        torch.backends.mha.set_fastpath_enabled(value=True)
