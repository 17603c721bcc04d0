"""Group Fisher on torchvision's RetinaNet, at the settings of its paper, on drawn rectangles or on COCO.

    OMP_NUM_THREADS=1 python benchmarks/detection.py --quick
    python benchmarks/detection.py --coco images/train2017 annotations/instances_train2017.json --macs 0.5 --out FILE

Settings of Liu et al., "Group Fisher Pruning for Practical Network Compression", ICML 2021, for detectors: one unit
every 10 steps, scores over activation memory, SGD at 0.002 with momentum 0.9 and weight decay 1e-4 while pruning and at
0.01 afterwards, norms frozen, all stages of the backbone unfrozen. Deviations: the network is small, and so are the
images unless COCO is named; gradients are clipped at norm 10 (there for FSAF only); there is one process and one
learning rate a phase. Average precision is torchmetrics', which needs pycocotools; without it the loss on held-out
images stands for it.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.ops import FrozenBatchNorm2d

import secateurs as sct
from secateurs.app.data.boxes import Rectangles, as_lists, coco
from secateurs.methods import GroupFisher


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Train, prune while training, fine-tune, and measure before and after."""
    args = arguments(argv)
    torch.manual_seed(args.seed)
    learning, held = data(args)
    model = detector(args.classes, args.side, args.blocks)
    example = ([torch.rand(3, args.side, args.side)],)
    fit(model, loader(learning, args), args.epochs, lr=0.01)
    report: dict[str, Any] = {"arguments": {k: str(v) for k, v in vars(args).items()}}
    report["dense"] = measured(model, loader(held, args))
    model.eval()
    graph = sct.trace(model, example)
    steps = len(loader(learning, args))
    session = sct.Session(
        model,
        example,
        method=GroupFisher(every=args.every),
        budget=sct.Budget(macs=args.macs),
        steps_per_epoch=steps,
        epochs=args.prune_epochs,
    )
    print(session.note)
    fit(model, loader(learning, args), args.prune_epochs, lr=0.002, session=session)
    small = session.finish()
    report["cut"] = measured(small, loader(held, args))
    fit(small, loader(learning, args), args.tune_epochs, lr=0.01)
    report |= {"pruned": measured(small, loader(held, args)), "events": len(session.history.of("removed"))}
    small.eval()
    report["cost"] = {"before": asdict(graph.cost()), "after": asdict(sct.trace(small, example).cost())}
    print(json.dumps(report, indent=1))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


def detector(classes: int, side: int, blocks: int) -> RetinaNet:
    """RetinaNet on a ResNet of basic blocks with frozen norms and a feature pyramid of 64 channels."""
    body = ResNet(BasicBlock, [blocks] * 4, norm_layer=FrozenBatchNorm2d)
    backbone = BackboneWithFPN(body, {"layer2": "0", "layer3": "1", "layer4": "2"}, [128, 256, 512], 64)
    sizes = tuple((side // 8 * 2**k,) for k in range(4))
    anchors = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 4)
    model = RetinaNet(backbone, classes + 1, anchor_generator=anchors, min_size=side, max_size=side)
    for name, module in model.head.named_modules():
        # Drawn with a deviation of 0.01, towers this narrow pass nothing on, and only the last biases would learn.
        if isinstance(module, nn.Conv2d) and ".conv." in name:
            nn.init.kaiming_normal_(module.weight)
    return model


def fit(
    model: nn.Module, batches: DataLoader[Any], epochs: int, *, lr: float, session: sct.Session | None = None
) -> None:
    """The plain loop of a detector."""
    learnt = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(learnt, lr, momentum=0.9, weight_decay=1e-4)
    if session is not None:
        session.attach(optimizer)
    model.train()
    for epoch in range(epochs):
        total = torch.zeros(())
        for images, targets in batches:
            optimizer.zero_grad()
            loss: Tensor = sum(model(images, targets).values())  # type: ignore[assignment]
            loss.backward()
            nn.utils.clip_grad_norm_(learnt, 10.0)
            optimizer.step()
            total = total + loss.detach()
        print(f"  epoch {epoch + 1}/{epochs}: loss {total.item() / len(batches):.3f}", flush=True)


def measured(model: nn.Module, batches: DataLoader[Any]) -> dict[str, float]:
    """The loss on held-out images, and average precision where it can be had."""
    with torch.no_grad():
        model.train()  # norms are frozen; only so does it give losses
        losses = [sum(float(v) for v in model(images, targets).values()) for images, targets in batches]
        found = {"loss": sum(losses) / len(losses)}
        if find_spec("pycocotools"):
            from torchmetrics.detection import MeanAveragePrecision

            metric = MeanAveragePrecision()
            model.eval()
            for images, targets in batches:
                metric.update(model(images), targets)
            found |= {name: float(value) for name, value in metric.compute().items() if name in ("map", "map_50")}
    return found


def data(args: argparse.Namespace) -> tuple[Dataset[Any], Dataset[Any]]:
    """Images to learn from, and held-out ones."""
    if args.coco:
        both = coco(*args.coco)
        held = len(both) // 20  # type: ignore[arg-type]
        first, second = torch.utils.data.random_split(both, [len(both) - held, held])  # type: ignore[arg-type]
        return first, second
    return Rectangles(args.images, args.side), Rectangles(args.images // 4, args.side, seed=1)


def loader(images: Dataset[Any], args: argparse.Namespace) -> DataLoader[Any]:
    """Shuffled batches."""
    return DataLoader(images, args.batch_size, shuffle=True, collate_fn=as_lists, drop_last=True)


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--coco", nargs=2, type=Path, metavar=("IMAGES", "ANNOTATIONS"))
    parser.add_argument("--images", type=int, default=400, help="drawn images to learn from")
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--classes", type=int, default=3, help="91 for COCO")
    parser.add_argument("--blocks", type=int, default=2, help="of each of the backbone's four stages")
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--macs", type=float, default=0.5)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--prune-epochs", type=int, default=12)
    parser.add_argument("--tune-epochs", type=int, default=12)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--quick", action="store_true", help="16 images, one block a stage, one epoch each")
    args = parser.parse_args(argv)
    if args.quick:
        args.images, args.side, args.blocks, args.batch_size, args.macs = 16, 64, 1, 4, 0.9
        args.epochs = args.prune_epochs = args.tune_epochs = 1
    return args


if __name__ == "__main__":
    main()
