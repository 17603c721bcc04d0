"""A sample of the attack in every test run, and all of it in the slow tier; `make attack` writes its record."""

import ast

import pytest
from tests.attack import command_line, guards, sections

from secateurs.store import files


def held(outcome, least):
    tried, failed = outcome
    assert tried >= least
    assert not failed, "\n".join(["", *failed[:20]])


@pytest.mark.parametrize("found", guards.FINDS, ids=lambda found: found.words)
def test_every_find_has_a_guard_and_a_test(found):
    """Its line stands in its file once, and its test is there; `python -m tests.attack.guards` breaks them all."""
    assert found.guards
    for guard in found.guards:
        file, _, name = guard.test.partition("::")
        source = (guards.ROOT / guards.SOURCES / guard.file).read_text("utf-8")
        broken = source.replace(guard.good, guard.broken)

        assert source.count(guard.good) == 1, guard
        assert broken != source
        assert guard.file.endswith(".toml") or ast.parse(broken)
        assert f"def {name.partition('[')[0]}(" in (guards.ROOT / file).read_text("utf-8"), guard.test


def test_a_sample_of_damaged_and_hostile_models():
    """Each is one error of ours, or harmless; the model is never touched by a refusal."""
    held(sections.saved_models(120, seed=0), 120)


@pytest.mark.slow
def test_damaged_and_hostile_models():
    held(sections.saved_models(1000, seed=1), 1000)


def test_a_sample_of_damaged_and_hostile_files():
    """Plans, manifests, weights, recipes, records, reports, tables: each is one error of ours, or harmless."""
    held(sections.files(80, seed=0), 80)


@pytest.mark.slow
def test_damaged_and_hostile_files():
    held(sections.files(2000, seed=1), 2000)


def test_a_sample_of_bad_flags():
    """One sentence, exit code 2 or 1, nothing else."""
    held(command_line.flags(every=12), 40)


@pytest.mark.slow
def test_bad_flags():
    held(command_line.flags(), 400)


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_damaged_files_of_a_run():
    """Refused in one sentence, or gone on from to the same bits."""
    held(command_line.run_folders(100, seed=1), 100)


def test_what_fuzzing_found():
    """Files that reached new code once; no reader may stumble over one again."""
    held(sections.corpus(), 20)


@pytest.mark.slow
def test_kills():
    """Every writer: saves, tables, records, checkpoints, exported files."""
    held(sections.kills(), 40)


def test_arguments_that_belong_elsewhere():
    """Every argument of every verb, each time by something else: one sentence of ours, the model as it was."""
    held(sections.arguments(), 300)


def test_threads():
    held(sections.threads(3), 3)


def test_processes():
    held(sections.processes(2), 2)


def test_processes_where_directories_cannot_be_locked(monkeypatch):
    """As on Windows, by a file beside the user's temporary ones."""
    monkeypatch.setattr(files, "_locked", files.lock_beside)
    held(sections.processes(2), 2)


@pytest.mark.slow
def test_a_thousand_cycles_with_level_memory():
    held(sections.cycles(1000), 1000)
