"""A run that is killed before any call that changes the disk goes on to the bits it would have ended with."""

import hashlib
import os
import shutil
from functools import partial

import pytest
from tests.attack.command_line import quick
from tests.attack.faults import CALLS, killed_at
from tests.end_to_end.test_cli import FAST, NET

from secateurs.app.cli import main
from secateurs.store.files import is_unfinished

PROMISED = ("plan.json", "model.safetensors")


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """A short run into a folder, begun or gone on with; latency and picture are not looked at."""
    own = tmp_path_factory.mktemp("own") / "own.py"
    own.write_text(NET)
    short = [*FAST, "--train-epochs", "1", "--batch-size", "256", "--resume"]

    def run(out):
        return main(["prune", "--model", f"{own}:net", "--macs", "0.5", "--out", str(out), *short])

    with quick():
        yield run


def contents(out):
    """Every path below a folder -> the hash of its contents."""
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(out.rglob("*"))
    }


def ended(out):
    """The bits that a run promises, and what it should not leave."""
    return [(out / name).read_bytes() for name in PROMISED], [p for p in out.rglob("*") if is_unfinished(p)]


def states(command, out, kept):
    """Run once, and copy the folder before each call: what a kill there leaves. The copies that differ, and the calls.

    A killed process has written what it wrote, and nothing else: a copy of the folder at that moment is the same.
    """
    calls, last, copies = 0, None, []

    def copied(real, *args, **kwargs):
        nonlocal calls, last
        calls += 1
        if out.exists() and (now := contents(out)) != last:
            last = now
            copies.append(kept / f"before-{calls}")
            with pytest.MonkeyPatch.context() as inside:
                for name, whole in originals.items():
                    inside.setattr(os, name, whole)
                shutil.copytree(out, copies[-1], symlinks=True)
        return real(*args, **kwargs)

    originals = {name: getattr(os, name) for name in CALLS}
    with pytest.MonkeyPatch.context() as patch:
        for name, real in originals.items():
            patch.setattr(os, name, partial(copied, real))
        assert command(out) == 0
    return copies, calls


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_a_run_killed_before_any_call_resumes_to_the_same_bits(command, tmp_path):
    """Recipe, records, checkpoints and their hashes, saved models, report and picture."""
    copies, calls = states(command, tmp_path / "whole", tmp_path)
    whole = ended(tmp_path / "whole")

    assert whole[1] == []
    assert calls > 100
    assert len(copies) > 40
    for copy in copies:
        assert command(copy) == 0, copy.name
        assert ended(copy) == whole, copy.name
        shutil.rmtree(copy)


@pytest.mark.slow
@pytest.mark.parametrize("call", [10, 50, 100])
def test_a_copy_is_what_a_killed_process_leaves(command, tmp_path, call):
    """The test above rests on this; the random part of temporary names is not compared."""
    copies, _ = states(command, tmp_path / "whole", tmp_path)
    copy = [path for path in copies if int(path.name.removeprefix("before-")) <= call][-1]

    assert killed_at(call, lambda: command(tmp_path / "killed"))
    assert sorted(map(_plain, contents(copy))) == sorted(map(_plain, contents(tmp_path / "killed")))


def _plain(name):
    return name.rpartition(".")[0].rpartition(".")[0] if name.endswith(".new") else name
