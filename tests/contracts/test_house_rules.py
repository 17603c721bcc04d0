"""What the library asks of the methods and criteria that it ships, beyond what it asks of anybody's."""

import dataclasses
import inspect
import re

import pytest

from secateurs import registry
from secateurs.evidence import Activations, Derivatives, GateGradients, Gradients, Weights

SHIPPED = sorted({entry.name for entry in registry.entries().values()})
PAPERS = [name for name in SHIPPED if registry.kind_of(registry.make(name)) != "criterion" and name != "gradual"]

every = pytest.mark.parametrize("name", SHIPPED)


@every
def test_a_method_is_a_frozen_value(name):
    """Settings compare, hash and cannot change."""
    value = registry.make(name)
    again = dataclasses.replace(value)

    assert value == again
    assert hash(value) == hash(again)
    assert type(value).__dataclass_params__.frozen


@every
def test_a_method_says_what_it_computes(name):
    """A sentence, a formula or numbers in symbols, and an example that runs."""
    text = inspect.getdoc(type(registry.make(name)))

    assert re.match(r"[A-Z][^\n]*\.", text)
    assert ">>>" in text


@pytest.mark.parametrize("name", PAPERS)
def test_a_method_names_its_paper(name):
    """Authors, title, place and year."""
    assert re.search(r"\. .*\b(19|20)\d\d\b", registry.make(name).reference)


@every
def test_a_method_is_shown_by_its_settings(name):
    """What differs from the defaults is in its repr, which messages and reports use."""
    value = registry.make(name)

    assert repr(value).startswith(f"{type(value).__name__}(")
    assert "\n" not in repr(value)


@every
def test_a_method_needs_what_can_be_gathered(name):
    """Evidence of the library's own kinds, so that one pass over the data serves several methods."""
    needs = getattr(registry.make(name), "needs", {})
    kinds = Activations | GateGradients | Derivatives

    assert all(need in (Weights, Gradients) or isinstance(need, kinds) for need in needs.values())
