"""Killed before any single call that changes the disk: what was whole stays whole, and the work goes on from there."""

from functools import partial

import pytest
import torch
from tests.attack.faults import killed_at
from tests.laws.networks import Tied, images, made

import secateurs as sct
from secateurs.store import files
from secateurs.store.files import is_unfinished


def pruned(seed, units):
    model = made(Tied, seed=seed)
    plan = sct.Plan.from_keep(sct.trace(model, images()), {"stem": range(units)})
    return sct.apply(plan, model), plan


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def every_kill(work, check):
    """Run the work killed at call 1, 2, … until it is not killed any more; count the kills."""
    for call in range(1, 1000):
        if not killed_at(call, partial(work, call)):
            return call - 1
        check(call)
    raise AssertionError("never came to its end")


def test_a_new_model_is_there_or_can_be_saved(tmp_path):
    """Killed anywhere, it loads, or saving again makes it load; nothing of the first try is left."""
    model, plan = pruned(0, 4)

    def check(call):
        directory = tmp_path / str(call)
        finished = directory.is_dir() and (directory / "plan.json").exists()
        sct.save(model, plan, directory, overwrite=finished)
        assert same(sct.load(Tied(), directory), model)
        assert [path.name for path in directory.iterdir() if is_unfinished(path)] == []

    assert every_kill(lambda call: sct.save(model, plan, tmp_path / str(call)), check) >= 7


def test_an_overwritten_model_is_the_old_or_the_new_one(tmp_path):
    """Never neither; a third save over what the kill left works and leaves nothing behind."""
    old, new = pruned(0, 4), pruned(1, 5)
    for call in range(1, 30):
        sct.save(*old, tmp_path / str(call))

    def check(call):
        loaded = sct.load(Tied(), tmp_path / str(call))
        assert same(loaded, old[0]) if loaded.stem.out_channels == 4 else same(loaded, new[0])
        assert not killed_at(10**6, lambda: sct.save(*old, tmp_path / str(call), overwrite=True))
        assert same(sct.load(Tied(), tmp_path / str(call)), old[0])
        assert sorted(path.name for path in (tmp_path / str(call)).iterdir()) == ["model.safetensors", "plan.json"]

    assert every_kill(lambda call: sct.save(*new, tmp_path / str(call), overwrite=True), check) >= 7


@pytest.mark.parametrize("call", [5, *(pytest.param(n, marks=pytest.mark.slow) for n in (3, 4, 6, 7))])
def test_a_save_that_is_killed_twice_at_the_same_moment(tmp_path, call):
    """The same model again over what a kill left, killed again, then failing: still whole."""
    old, new = pruned(0, 4), pruned(1, 5)
    sct.save(*old, tmp_path / "a")
    for again in (call, 1, 2, 3, 4, 5, 6):
        killed_at(again, lambda: sct.save(*new, tmp_path / "a", overwrite=True))
        loaded = sct.load(Tied(), tmp_path / "a")
        assert same(loaded, old[0]) if loaded.stem.out_channels == 4 else same(loaded, new[0])


def test_what_is_swept_is_never_behind_a_link(tmp_path):
    """Unfinished files of a run go, also in folders inside; a link to somebody's folder is left, and what it holds."""
    run, other = tmp_path / "run", tmp_path / "other"
    (run / "inside").mkdir(parents=True)
    other.mkdir()
    name = f".weights.{'0' * files.MARK}.new"
    for folder in (run, run / "inside", other):
        (folder / name).touch()
    (run / "link").symlink_to(other, target_is_directory=True)
    (tmp_path / "itself").symlink_to(other, target_is_directory=True)

    files.sweep(run)
    files.sweep(tmp_path / "itself")

    assert [*other.iterdir()] == [other / name]
    assert sorted(path.name for path in run.rglob("*")) == ["inside", "link"]
