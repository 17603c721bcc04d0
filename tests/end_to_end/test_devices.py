"""One run on two devices: processes agree, a killed run goes on, and what cannot be shared out is refused."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
from lightning.fabric import Fabric
from torch.utils.data import DataLoader

import secateurs as sct
from secateurs.app.cli import main
from secateurs.app.data import load
from secateurs.app.training import Loaders
from secateurs.app.training.machines import Machines
from secateurs.app.training.seeds import Share, Shuffled

NET = """
from torch import nn

def net(in_channels, num_classes):
    return nn.Sequential(
        nn.Conv2d(in_channels, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes),
    )
"""
SLOW = pytest.mark.slow


def test_devices_share_out_every_batch():
    """Together they take the images of one device's batches, each image once, in batches of the same size."""
    whole = Shuffled(1078, seed=3)
    parts = [list(Share(whole, 64, rank, 4)) for rank in range(4)]
    order = list(whole)

    assert {len(part) for part in parts} == {16 * 16}
    for batch in range(16):
        shared = sorted(index for part in parts for index in part[16 * batch : 16 * batch + 16])
        assert shared == sorted(order[64 * batch : 64 * batch + 64])


def test_a_device_loads_its_part_only(monkeypatch):
    data = Loaders(load("digits"), batch_size=64, machines=Machines(devices=2))
    monkeypatch.setattr("secateurs.app.training.loaders.rank", lambda: 1)
    loader = data.train_dataloader()

    assert isinstance(loader, DataLoader)
    assert [len(labels) for _, labels in loader] == [32] * 16
    assert len(data.shuffled(0)) == 16


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--strategy", "fsdp"], "a shard cannot lose channels. Prune before wrapping"),
        (["--devices", "3"], "a batch of 128 images cannot be shared out among 3 devices evenly; take a multiple"),
        (["--devices", "0"], "whole number from 1 to"),
        (["--devices", "99999999"], "whole number from 1 to"),
        (["--num-nodes", "99999999999999999999"], "whole number from 1 to"),
    ],
)
def test_what_cannot_train_together_is_refused_before_any_work(tmp_path, capsys, monkeypatch, flags, words):
    monkeypatch.setattr(Machines, "launch", lambda self, accelerator: None)
    assert main(["prune", "--macs", "0.5", "--out", str(tmp_path / "run"), *flags]) == 2

    assert words in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_machines_that_nobody_names_are_not_waited_for(tmp_path, capsys, monkeypatch):
    """The first process would wait for the others for two days."""
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    monkeypatch.setattr(Fabric, "launch", lambda _: pytest.fail("waits"))
    assert main(["prune", "--macs", "0.5", "--out", str(tmp_path / "run"), "--num-nodes", "2"]) == 2

    assert "set MASTER_ADDR" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_sharded_model_is_refused_with_the_advice_to_prune_before():
    """What FSDP makes of a model is DTensors; they are named, and so is the remedy."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    torch.distributed.init_process_group("gloo", init_method=f"tcp://localhost:{port}", rank=0, world_size=1)
    try:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2))
        fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
        with pytest.raises(sct.errors.ModelError, match=r"is a DTensor.* first, then shard"):
            sct.trace(model, torch.zeros(1, 4))
    finally:
        torch.distributed.destroy_process_group()


def started(folder, *flags, out, processes=2):
    """Two processes of torchrun that prune a tiny network."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes), f"--master-port={port}"),
        *("-m", "secateurs", "prune", "--model", f"{folder / 'net.py'}:net", "--trust-code", "--macs", "0.5"),
        *("--train-epochs", "1", "--prune-epochs", "6", "--epochs", "2", "--batch-size", "64", "--multiple-of", "1"),
        *("--images", "256", "--device", "cpu", "--threads", "1", "--devices", str(processes), "--out", str(out)),
    ]
    return subprocess.Popen([*command, *flags], start_new_session=True)


def result(out):
    report = json.loads((out / "report.json").read_text())
    return (out / "model.safetensors").read_bytes(), (out / "plan.json").read_text(), report["after"]["accuracy"]


@SLOW
@pytest.mark.parametrize("method", ["taylor", "greg1", "gradual"])
def test_two_processes_make_one_run_also_when_it_is_killed_and_resumed(tmp_path, method):
    """A one-shot, a training-time and a gradual method: one folder, and the same bits whether killed or not."""
    (tmp_path / "net.py").write_text(NET)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert started(tmp_path, "--method", method, out=whole).wait(500) == 0

    running = started(tmp_path, "--method", method, out=killed)
    stage = "recovery" if method == "taylor" else "pruning"
    for _ in range(5000):
        if (killed / "checkpoints" / stage / "last.ckpt").is_file() or running.poll() is not None:
            break
        time.sleep(0.1)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    assert not (killed / "report.json").exists()

    assert started(tmp_path, "--method", method, "--resume", out=killed).wait(500) == 0
    assert result(killed) == result(whole)
