"""Killed twice, and what killed writers leave: what was whole stays whole. Single kills are in `sections.kills`."""

import itertools
import os

import pytest
from tests.attack.faults import killed_at
from tests.attack.writers import loads, pruned

import secateurs as sct
from secateurs.errors import StoreError
from secateurs.store import files


@pytest.mark.parametrize("call", [5, *(pytest.param(n, marks=pytest.mark.slow) for n in (3, 4, 6, 7))])
def test_a_save_that_is_killed_twice_at_the_same_moment(tmp_path, call):
    """The same model again over what a kill left, and killed again: still whole."""
    old, new = pruned(0, 4), pruned(1, 5)
    sct.save(*old, tmp_path / "a")
    for again in (call, 1, 2, 3, 4, 5, 6):
        killed_at(again, lambda: sct.save(*new, tmp_path / "a", overwrite=True))
        assert loads(tmp_path / "a", old[0], new[0])


def test_a_save_that_fails_takes_nothing_from_what_a_kill_left(tmp_path, monkeypatch):
    """The plan in place names weights that have no other name yet; the same model again, and the disk is full."""
    old, new = pruned(0, 4), pruned(1, 5)
    sct.save(*old, tmp_path / "a")
    assert killed_at(7, lambda: sct.save(*new, tmp_path / "a", overwrite=True))
    assert loads(tmp_path / "a", new[0])
    for call in range(1, 5):
        calls, real = itertools.count(1), os.fsync

        def full(handle, call=call, calls=calls, real=real):
            if next(calls) == call:
                raise OSError(28, "No space left on device")
            real(handle)

        with monkeypatch.context() as patch:
            patch.setattr(files.os, "fsync", full)
            with pytest.raises(StoreError, match="No space left"):
                sct.save(*new, tmp_path / "a", overwrite=True)
        assert loads(tmp_path / "a", new[0])


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
