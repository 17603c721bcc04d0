"""Two processes that share the data prune as one process does with all of it."""

import pytest
import torch
import torch.distributed as dist
from tests.laws.loops import EPOCHS, HALF, LESSONS, METHODS, PER_EPOCH, STEPS, X, session, sgd
from torch import nn
from torch.nn import functional as F

import secateurs as sct

NAMES = ("GReg1", "GReg2", "IncReg", "ASRFP", "GroupFisher", "OrthoReg", "AdaptivePruning", "DepGraph", "Gradual")


class Pupil(nn.Module):
    """Like the pupil of the other laws, with norms that do not depend on the batch: its split would show."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.first = nn.Conv2d(8, 10, 3, padding=1)
        self.second = nn.Conv2d(10, 8, 3, padding=1)
        self.down = nn.Conv2d(8, 12, 3, stride=2)
        self.head = nn.Linear(12, 3)

    def forward(self, x):
        x = F.relu(self.stem(x))
        x = F.relu(x + self.second(F.relu(self.first(x))))
        return self.head(F.relu(self.down(x)).mean((2, 3)))


def pruned(name, rank=0, ranks=1):
    """Train on this process's share of every batch; plan and outputs."""
    torch.manual_seed(0)
    model = Pupil().double()
    wrapped = nn.parallel.DistributedDataParallel(model) if ranks > 1 else model
    started = session_of(wrapped, name, rank, ranks)
    optimizer = sgd(model)
    started.attach(optimizer)
    wrapped.train()
    for step in range(STEPS):
        x, y = LESSONS[step]
        optimizer.zero_grad()
        F.cross_entropy(wrapped(x.double()[rank::ranks]), y[rank::ranks]).backward()
        optimizer.step()
    small = started.finish().eval()
    return started, small(LESSONS[0][0].double()).detach()


def session_of(wrapped, name, rank, ranks):
    if ranks == 1:
        return session(wrapped, METHODS[name], shrink=False)
    data = [(x.double()[rank::ranks], y[rank::ranks]) for x, y in LESSONS]
    return sct.Session(
        wrapped, X.double(), method=METHODS[name], budget=HALF, steps_per_epoch=PER_EPOCH, epochs=EPOCHS, data=data
    )


def work(rank, folder):
    """One of two processes: it meets the other once, and prunes by every method in turn."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    try:
        found = {}
        for name in NAMES:
            started, outputs = pruned(name, rank, 2)
            found[name] = {"keep": dict(started.plan.keep), "outputs": outputs}
        torch.save(found, f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_make_one_plan(tmp_path):
    """Every rank ends with the same plan and the same network: that of one process, where data do not decide alone.

    One test for all methods: starting processes costs more than all that they do.
    """
    torch.multiprocessing.spawn(work, (str(tmp_path),), nprocs=2)
    both = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for name in NAMES:
        first, second = (found[name] for found in both)

        assert first["keep"] == second["keep"], name
        torch.testing.assert_close(first["outputs"], second["outputs"])
        assert any(len(units) < n for units, n in zip(first["keep"].values(), (8, 10, 12), strict=True)), name
        if name != "AdaptivePruning":  # its profits are measured on the first process's own few batches
            alone, outputs = pruned(name)
            assert dict(alone.plan.keep) == first["keep"], name
            torch.testing.assert_close(first["outputs"], outputs, rtol=1e-6, atol=1e-8)


def test_a_wrapped_model_is_masked_until_the_end(tmp_path):
    """Under DDP shapes must not change while it trains, so removal waits for finish."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        torch.manual_seed(0)
        model = Pupil()
        wrapped = nn.parallel.DistributedDataParallel(model)
        started = session(wrapped, METHODS["GroupFisher"])
        optimizer = sgd(model)
        started.attach(optimizer)
        shapes = [p.shape for p in model.parameters()]
        for x, y in LESSONS:
            optimizer.zero_grad()
            F.cross_entropy(wrapped(x), y).backward()
            optimizer.step()
        assert [p.shape for p in model.parameters()] == shapes
        assert started.cost.macs <= sct.trace(Pupil(), X).cost().macs // 2
        small = started.finish()
    finally:
        dist.destroy_process_group()

    assert sct.trace(small, X).cost() == started.cost
