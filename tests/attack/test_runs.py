"""A whole run, killed before calls that change the disk: resumed, it ends with the bits it would have ended with."""

import shutil

import pytest
from tests.attack.faults import killed_at
from tests.end_to_end.test_cli import FAST, NET

from secateurs.app.cli import main, measure
from secateurs.app.report import picture
from secateurs.store.files import is_unfinished

PROMISED = ("plan.json", "model.safetensors")


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """A short run into a folder, begun or gone on with; latency and picture are not looked at."""
    own = tmp_path_factory.mktemp("own") / "own.py"
    own.write_text(NET)

    def run(out):
        flags = ["--model", f"{own}:net", "--macs", "0.5", "--out", str(out), *FAST, "--train-epochs", "1", "--resume"]
        return main(["prune", *flags])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "SECONDS", 0.05)
        patch.setattr(picture, "DOTS", 20)
        yield run


@pytest.fixture(scope="module")
def whole(command, tmp_path_factory):
    """The bits of a run that nothing stopped."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    assert command(out) == 0
    return {name: (out / name).read_bytes() for name in PROMISED}


def resumed_after(call, command, whole, out):
    """Kill a run before its k-th call, go on with it, compare; False when the run came to its end."""
    killed = killed_at(call, lambda: command(out))
    assert command(out) == 0
    assert whole == {name: (out / name).read_bytes() for name in PROMISED}
    assert [path for path in out.rglob("*") if is_unfinished(path)] == []
    shutil.rmtree(out)
    return killed


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_a_run_killed_before_any_call_resumes_to_the_same_bits(command, whole, tmp_path):
    """Recipe, records, checkpoints and their hashes, saved models, report and picture."""
    calls = 1
    while resumed_after(calls, command, whole, tmp_path / "out"):
        calls += 1

    assert calls > 60
