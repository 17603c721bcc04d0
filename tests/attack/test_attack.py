"""A sample of the attack in every test run, and all of it in the slow tier; `make attack` writes its record."""

import pytest
from tests.attack import sections


def held(outcome, least):
    tried, failed = outcome
    assert tried >= least
    assert not failed, "\n".join(["", *failed[:20]])


def test_a_sample_of_damaged_and_hostile_models():
    """Each is one error of ours, or harmless; the model is never touched by a refusal."""
    held(sections.saved_models(120, seed=0), 120)


@pytest.mark.slow
def test_damaged_and_hostile_models():
    held(sections.saved_models(1000, seed=1), 1000)


@pytest.mark.slow
def test_kills():
    held(sections.kills(), 14)


def test_arguments_that_belong_elsewhere():
    """Every argument of every verb, each time by something else: one sentence of ours, the model as it was."""
    held(sections.arguments(), 300)


def test_threads():
    held(sections.threads(3), 3)


@pytest.mark.slow
def test_a_thousand_cycles_with_level_memory():
    held(sections.cycles(1000), 1000)
