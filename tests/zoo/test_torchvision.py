"""The laws over torchvision's classifiers: a handful always, all of them in the zoo tier."""

from dataclasses import replace

import numpy as np
import pytest
from tests.zoo import laws
from tests.zoo.builders import BUILDERS, GIANTS, Builder, small_vision_transformer

HANDFUL = {"resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5", "densenet121", "googlenet"}
FEW = [replace(builder, size=32, second=64) for builder in BUILDERS if builder.name in HANDFUL]
REST = [builder for builder in BUILDERS if builder.name not in HANDFUL]


@pytest.mark.parametrize(
    "builder",
    [pytest.param(b, marks=pytest.mark.slow) if b.name != "mobilenet_v3_small" else b for b in FEW],
    ids=lambda builder: builder.name,
)
def test_laws_hold_on_a_handful(builder: Builder):
    """Laws 1, 2, 4, 6 and 7 on one network of each family, and what is removed matters."""
    seen = laws.check_all(builder.subject())

    assert seen.removed > 100
    assert seen.moved > 1e-6


def test_laws_hold_on_a_small_vision_transformer():
    """The same on a vision transformer of two layers, whose hidden units at least are exact."""
    seen = laws.check_all(small_vision_transformer())

    assert seen.removed > 10
    assert seen.moved > 1e-6


@pytest.mark.zoo
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("builder", REST, ids=lambda builder: builder.name)
def test_laws_hold_on_every_builder(builder: Builder):
    """Something exact is found, removal is silence, the pruned network trains with all its heads, the cost is right."""
    subject = builder.subject()
    laws.check_partition(subject)

    seen = laws.check_removal(subject, np.random.default_rng(0))

    assert seen.removed
    assert seen.moved > 1e-6
    if builder.name not in GIANTS:
        keep = laws.random_keep(subject.graph, np.random.default_rng(1))
        pruned = laws.applied(subject, laws.INTERFACE, keep)
        laws.judge_interface(subject, keep, pruned)
        laws.judge_cost(subject, keep, pruned)
        laws.judge_training(subject, keep, pruned)
