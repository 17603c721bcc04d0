"""Prune a face network, recover it on faces of people who are in no pair, and verify it by pairs.

    OMP_NUM_THREADS=1 python benchmarks/faces.py --root LFW/lfw-112x96 --pairs LFW/pairs.txt --weights FILE \\
        --method foad:published --macs 0.364 --reconstruct --epochs 20 --out results/faces.json

`--out` collects runs: one of the same settings is replaced, and the table beside the file (`.md`) is made anew.

Any folder of people will do: without `--pairs`, half of the people are paired in 10 drawn folds, and the other half is
learnt from. The network is MobileFaceNet (Chen et al. 2018); without `--weights` it is first trained on those people by
ArcFace (`--train-epochs`). Labels are not used to recover: the pruned network learns the dense one's embeddings.

The pairs are looked at twice only, for the dense network and for the final one; nothing is chosen by them.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import secateurs as sct
from secateurs.app.data.faces import Face, FacePair, People, draw_pairs, read_pairs
from secateurs.app.models.mobilefacenet import MobileFaceNet
from secateurs.app.training.verification import ArcFace, embeddings, standardised, verify
from secateurs.recover import Recovery
from secateurs.registry import make

ABOUT = """MobileFaceNet; verification accuracy in per cent, mean and standard error over the folds. Recovered on faces
of people in no pair, without labels. Made by `benchmarks/faces.py`; settings stand in the JSON file; do not edit."""

Folds = tuple[tuple[FacePair, ...], ...]


def main() -> None:
    """Do the run, and write its record."""
    args = arguments()
    torch.manual_seed(args.seed)
    people = People.open(args.root)
    if args.pairs:
        folds = read_pairs(args.pairs)
    else:
        folds = draw_pairs(people.half(0, seed=args.seed), folds=args.folds, seed=args.seed)
    learning = people.outside(folds)
    images = standardised(learning.read(learning.faces()))
    print(f"{len(people)} images of {len(people.images)} people; {len(images)} of {len(learning.images)} to learn from")
    model = dense(args, learning, images)
    report: dict[str, Any] = {"arguments": settings(args), "versions": versions()}
    if not args.quick:
        report["dense"] = measured(model, people, folds)
        print(f"dense: {report['dense']['accuracy']}", flush=True)
    start = time.process_time()
    batches = list(torch.cat([images, images.flip(3)]).split(args.batch_size))
    result = sct.prune(
        model,
        images[:1],
        method=make(args.method, seed=args.seed),
        budget=sct.Budget(macs=args.macs, multiple_of=args.multiple_of),
        data=batches[: args.choose],
        seed=args.seed,
    )
    print(result)
    report["cost"] = {"before": vars(result.cost_before), "after": vars(result.cost_after)}
    small = sct.recover(result.model, model, batches, plan=result.plan, steps=steps(args), images=2 * len(images))
    report["seconds of pruning and recovery"] = time.process_time() - start
    report["pruned"] = measured(small, people, folds)
    print(f"pruned: {report['pruned']['accuracy']}")
    if args.out:
        collect(report, args.out)


def settings(args: argparse.Namespace) -> dict[str, str]:
    """The settings of a run; of files their names."""
    aside = ("out", "quick")
    return {k: v.name if isinstance(v, Path) else str(v) for k, v in vars(args).items() if k not in aside}


def collect(report: dict[str, Any], out: Path) -> None:
    """Put a run among those of a file, in place of one of the same settings, and make the table."""
    runs: list[dict[str, Any]] = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else []
    known = next((run["dense"] for run in runs if "dense" in run), None)
    runs = [*(run for run in runs if run["arguments"] != report["arguments"]), report]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(runs, indent=1) + "\n", encoding="utf-8")
    dense = report.get("dense", known)
    lines = [
        "# A face network pruned and verified on pairs",
        "",
        ABOUT,
        "",
        f"Dense: {dense['accuracy'] if dense else 'not measured'}.",
        "",
        "| method | MACs | parameters | recovery | accuracy | CPU s of pruning and recovery |",
        "|---|---|---|---|---|---|",
    ]
    for run in runs:
        said, before, after = run["arguments"], run["cost"]["before"], run["cost"]["after"]
        parts = ["BatchNorm", "reconstruction"][: 1 + (said["reconstruct"] == "True")]
        parts += [f"{said['epochs']} epochs of distillation"] if int(said["epochs"]) else []
        shares = [f"{100 * after[name] / before[name]:.1f} %" for name in ("macs", "params")]
        found = [said["method"], *shares, ", ".join(parts), run["pruned"]["accuracy"]]
        lines.append(f"| {' | '.join(found)} | {run['seconds of pruning and recovery']:.0f} |")
    out.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def steps(args: argparse.Namespace) -> tuple[Recovery, ...]:
    """What follows removal."""
    found: list[Recovery] = [sct.Recalibrate()]
    if args.reconstruct:
        found.append(sct.Reconstruct(seed=args.seed))
    if args.epochs:
        found.append(sct.Distil("squares", epochs=args.epochs, lr=args.lr, seed=args.seed))
    return tuple(found)


def dense(args: argparse.Namespace, learning: People, images: Tensor) -> nn.Module:
    """The network with its weights, or trained on the people to learn from."""
    height, width = images.shape[2:]
    if height != 112 or width % 16:
        raise SystemExit(f"the images are {height} x {width} pixels; MobileFaceNet takes 112 x 96 or 112 x 112")
    model = MobileFaceNet(width=width)
    if args.weights:
        model.load_state_dict(load_file(args.weights))
        return model.eval()
    number = {name: n for n, name in enumerate(learning.images)}
    labels = torch.tensor([number[name] for name, _ in learning.faces()])
    head = ArcFace(128, len(number))
    optimizer = torch.optim.SGD([*model.parameters(), *head.parameters()], 0.1, momentum=0.9, weight_decay=5e-4)
    model.train()
    for epoch in range(args.train_epochs):
        for part in torch.randperm(len(images)).split(args.batch_size):
            if len(part) > 1:
                optimizer.zero_grad()
                head(model(images[part]), labels[part]).backward()
                optimizer.step()
        print(f"trained for {epoch + 1} epochs", flush=True)
    return model.eval()


def measured(model: nn.Module, people: People, folds: Folds) -> dict[str, Any]:
    """The accuracy of verification."""
    faces: list[Face] = sorted({face for fold in folds for pair in fold for face in (pair.first, pair.second)})
    found = verify(embeddings(model, people, faces), folds)
    return {"accuracy": str(found), "folds": found.folds, "thresholds": found.thresholds}


def versions() -> dict[str, str]:
    """What it was measured with."""
    return {"secateurs": sct.__version__, "torch": torch.__version__, "machine": platform.machine()}


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="a folder of images for each person, in one folder")
    parser.add_argument("--pairs", type=Path, help="pairs.txt of LFW")
    parser.add_argument("--folds", type=int, default=10, help="folds to draw, without --pairs")
    parser.add_argument("--weights", type=Path, help="MobileFaceNet's, as safetensors")
    parser.add_argument("--train-epochs", type=int, default=20)
    parser.add_argument("--method", default="foad:published")
    parser.add_argument("--macs", type=float, default=0.364)
    parser.add_argument("--multiple-of", type=int, default=1)
    parser.add_argument("--choose", type=int, default=4, help="batches that the method looks at")
    parser.add_argument("--reconstruct", action="store_true", help="refit every layer before distillation")
    parser.add_argument("--epochs", type=int, default=20, help="of distillation")
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="leave the dense network unmeasured")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
