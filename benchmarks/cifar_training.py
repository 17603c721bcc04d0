"""Training-time methods on CIFAR-10 ResNet-56 from the given checkpoint. Made for a GPU; every run is one command.

    RUN="python benchmarks/cifar_training.py --data $SECATEURS_DATA --seed 0 --out results/cifar_training"
    $RUN --method GroupFisher --macs 0.5 --epochs 60
    $RUN --method GReg2 --macs 0.5 --epochs 60
    $RUN --method ASRFP --remove 0.4 --epochs 120

$SECATEURS_DATA holds cifar10/ as torchvision writes it and checkpoints/cifar10_resnet56.safetensors.

The session takes the first part of the epochs (`--prune`, two thirds by default) at the learning rate `--prune-lr`,
then the network, cut and BatchNorm recalibrated, is fine-tuned for the rest at `--lr`, both falling by a cosine. A
tenth of the training images is held out; the epoch with the best held-out accuracy among those of the pruned
network is chosen, and its test accuracy reported next to that of the last epoch; the test split decides nothing. A
JSON line with every setting is appended to OUT/runs.jsonl. `--limit N` uses N training images and is for trying the
command out without a GPU.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

import secateurs as sct
from secateurs.app.data import load
from secateurs.app.models import resnet56


class Data:
    """CIFAR-10 on the device, with crops and flips drawn there."""

    def __init__(self, root: str, device: str, batch: int, limit: int | None) -> None:
        self.splits, self.device, self.batch = load(f"cifar10:{root}"), device, batch
        self.train = self._all(self.splits.calibration, limit)
        self.held = self._all(self.splits.validation, limit)
        self.test = self._all(self.splits.test, limit)
        self.steps = len(self.train[0]) // batch

    def _all(self, images: Any, limit: int | None) -> tuple[Tensor, Tensor]:
        count = len(images) if limit is None else min(limit, len(images))
        x, y = images.__getitems__(list(range(count)))
        return x.to(self.device), y.to(self.device)

    def epoch(self, generator: torch.Generator) -> Any:
        x, y = self.train
        order = torch.randperm(len(x), generator=generator)[: self.steps * self.batch].view(self.steps, -1)
        for rows in order.to(self.device):
            images = F.pad(x[rows], (4, 4, 4, 4))
            top, left = (int(v) for v in torch.randint(0, 9, (2,), generator=generator))
            images = images[:, :, top : top + 32, left : left + 32]
            flip = torch.rand(len(rows), generator=generator).to(self.device) < 0.5
            yield torch.where(flip[:, None, None, None], images.flip(3), images), y[rows]

    def calm(self, batches: int = 80) -> list[tuple[Tensor, Tensor]]:
        x, y = self.train
        return [(x[i : i + 128], y[i : i + 128]) for i in range(0, min(len(x), 128 * batches), 128)]

    @torch.no_grad()
    def accuracy(self, model: nn.Module, part: tuple[Tensor, Tensor]) -> float:
        model.eval()
        right = sum(
            int((model(x).argmax(1) == y).sum()) for x, y in zip(part[0].split(500), part[1].split(500), strict=True)
        )
        return right / len(part[0])


def fit(
    model: nn.Module, data: Data, epochs: int, rate: float, generator: torch.Generator, **also: Any
) -> dict[str, float]:
    """SGD, cosine; returns last and best figures. `also`: attach, judge (whether this epoch may be chosen), decay."""
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, weight_decay=also.get("decay", 5e-4))
    if also.get("attach"):
        also["attach"](optimizer)
    best: dict[str, float] = {"held": -1.0, "test": -1.0}
    for epoch in range(epochs):
        model.train()
        for step, (x, y) in enumerate(data.epoch(generator)):
            done = (epoch + step / data.steps) / epochs
            for group in optimizer.param_groups:
                group["lr"] = rate * 0.5 * (1.0 + math.cos(math.pi * done))
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        held = data.accuracy(model, data.held)
        if also.get("judge", True) and held > best["held"]:
            best = {"held": held, "test": data.accuracy(model, data.test)}
        print(f"epoch {epoch + 1}/{epochs} held-out {held:.4f} {also.get('session', '')}", flush=True)
    return {"last_test": data.accuracy(model, data.test), "best_held": best["held"], "best_test": best["test"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--method", required=True)
    parser.add_argument("--macs", type=float, default=None)
    parser.add_argument("--remove", type=float, default=None)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--prune", type=int, default=None)
    parser.add_argument("--prune-lr", type=float, default=0.01)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--limit", type=int, default=None)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    torch.manual_seed(given.seed)
    generator = torch.Generator().manual_seed(given.seed)
    data = Data(str(given.data / "cifar10"), given.device, given.batch, given.limit)
    model = resnet56()
    model.load_state_dict(load_file(given.data / "checkpoints" / "cifar10_resnet56.safetensors"))
    model.to(given.device)
    before = {"dense_test": data.accuracy(model, data.test)}
    part = given.prune or given.epochs * 2 // 3
    method = getattr(sct.methods, given.method)(**({} if given.remove is None else {"remove": given.remove}))
    method = method.fitted(data.steps, part)
    budget = None if given.macs is None else sct.Budget(macs=given.macs)
    x = torch.zeros(1, 3, 32, 32, device=given.device)
    dense = sct.trace(copy.deepcopy(model), x).cost()
    session = sct.Session(
        model,
        x,
        method=method,
        budget=budget,
        steps_per_epoch=data.steps,
        epochs=part,
        data=data.calm(),
        seed=given.seed,
    )
    begin = time.perf_counter()
    fit(model, data, part, given.prune_lr, generator, attach=session.attach, judge=False, session=session)
    sct.recalibrate(session.finish(), data.calm())
    right_after = data.accuracy(model, data.test)
    after = fit(model, data, given.epochs - part, given.lr, generator)
    row = {
        **vars(given), **before, "right_after_test": right_after, **after, "method": repr(method),
        "epochs_pruning": part,
        "macs_before": dense.macs, "macs_after": session.cost.macs, "params_before": dense.params,
        "params_after": session.cost.params, "seconds": round(time.perf_counter() - begin),
        "device_name": torch.cuda.get_device_name() if given.device == "cuda" else "cpu", "torch": torch.__version__,
    }  # fmt: skip
    row = {key: str(value) if isinstance(value, Path) else value for key, value in row.items()}
    row.pop("data")
    given.out.mkdir(parents=True, exist_ok=True)
    with (given.out / "runs.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(row, indent=1))


if __name__ == "__main__":
    main()
