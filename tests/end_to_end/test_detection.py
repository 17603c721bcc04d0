"""Group Fisher on torchvision's detectors: backbone, pyramid and shared heads, with shapes as data."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

import secateurs as sct
from secateurs.methods.group_fisher import GroupFisher

detection = pytest.importorskip("torchvision.models.detection")

SIDE, CLASSES = 64, 3


def shapes(count, generator):
    """Noise with one or two bright rectangles of two kinds, and their boxes."""
    images, targets = [], []
    for _ in range(count):
        image = torch.rand(3, SIDE, SIDE, generator=generator) * 0.3
        boxes, labels = [], []
        for _ in range(int(torch.randint(1, 3, (1,), generator=generator))):
            w, h = (int(v) for v in torch.randint(12, 28, (2,), generator=generator))
            x, y = (
                int(torch.randint(0, SIDE - w, (1,), generator=generator)),
                int(torch.randint(0, SIDE - h, (1,), generator=generator)),
            )
            kind = int(torch.randint(1, CLASSES, (1,), generator=generator))
            image[kind - 1, y : y + h, x : x + w] += 0.7
            boxes.append([x, y, x + w, y + h])
            labels.append(kind)
        images.append(image)
        targets.append({"boxes": torch.tensor(boxes, dtype=torch.float32), "labels": torch.tensor(labels)})
    return images, targets


def backbone(channels=32):
    """A ResNet of one basic block a stage, with a feature pyramid."""
    from torchvision.models.detection.backbone_utils import BackboneWithFPN
    from torchvision.models.resnet import BasicBlock, ResNet
    from torchvision.ops import FrozenBatchNorm2d
    from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

    body = ResNet(BasicBlock, [1, 1, 1, 1], norm_layer=FrozenBatchNorm2d)
    layers = {"layer2": "0", "layer3": "1", "layer4": "2"}
    return BackboneWithFPN(body, layers, [128, 256, 512], channels, extra_blocks=LastLevelMaxPool())


def anchors():
    from torchvision.models.detection.anchor_utils import AnchorGenerator

    return AnchorGenerator(((8,), (16,), (32,), (64,)), ((0.5, 1.0, 2.0),) * 4)


def detector(kind):
    torch.manual_seed(0)
    also = {"min_size": SIDE, "max_size": SIDE}
    if kind == "RetinaNet":
        model = detection.RetinaNet(backbone(), CLASSES, anchor_generator=anchors(), **also)
        for name, module in model.head.named_modules():
            # Drawn with a deviation of 0.01, towers this narrow pass nothing on, and only the last biases would learn.
            if isinstance(module, torch.nn.Conv2d) and ".conv." in name:
                torch.nn.init.kaiming_normal_(module.weight)
        return model
    if kind == "FCOS":
        one = anchors().__class__(((8,), (16,), (32,), (64,)), ((1.0,),) * 4)
        return detection.FCOS(backbone(64), CLASSES, anchor_generator=one, **also)
    from torchvision.ops import MultiScaleRoIAlign

    pool = MultiScaleRoIAlign(["0", "1", "2"], output_size=3, sampling_ratio=2)
    return detection.FasterRCNN(backbone(), CLASSES, rpn_anchor_generator=anchors(), box_roi_pool=pool, **also)


def pruned(kind, steps, budget):
    """Train on shapes with a session that takes half of the steps; losses, session, pruned model."""
    model = detector(kind)
    generator = torch.Generator().manual_seed(0)
    example = ([torch.rand(3, SIDE, SIDE, generator=generator)],)
    model.eval()
    dense = sct.trace(model, example).cost()
    session = sct.Session(
        model,
        example,
        method=GroupFisher(every=max(1, steps // 40), until=0.5),
        budget=budget,
        steps_per_epoch=steps,
        epochs=1,
    )
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.005, momentum=0.9)
    session.attach(optimizer)
    model.train()
    losses = []
    for _ in range(steps):
        loss = sum(model(*shapes(4, generator)).values())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        losses.append(float(loss))
    return losses, session, session.finish().eval(), dense, example


def check(kind, steps, macs=0.7):
    losses, session, small, dense, example = pruned(kind, steps, sct.Budget(macs=macs))
    left = sct.trace(small, example).cost()
    with torch.no_grad():
        found = small(*example)
    fresh = detector(kind).eval()
    with torch.no_grad():
        before = fresh(*example)
    sct.apply(session.plan, fresh)

    assert all(torch.isfinite(torch.tensor(losses)))
    # memory counts maps of as many regions as the weights propose
    assert (left.macs, left.params) == (session.cost.macs, session.cost.params)
    assert left.macs <= macs * dense.macs
    assert [sorted(one) for one in found] == [sorted(one) for one in before]
    assert all(one[key].dtype == other[key].dtype for one, other in zip(found, before, strict=True) for key in one)
    assert {n: t.shape for n, t in fresh.state_dict().items()} == {n: t.shape for n, t in small.state_dict().items()}
    return losses, session


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_retinanet_learns_shapes_while_it_is_pruned():
    """A few hundred steps: 70 % of the MACs, loss finite and lower at the end, backbone and shared heads pruned."""
    losses, session = check("RetinaNet", 300)
    removed = session.history.of("removed")
    touched = {name for event in removed for name in event.removed}

    assert sum(losses[-30:]) < 0.7 * sum(losses[:30])
    assert not session._driver._taps.blind
    assert any("head" in name for name in touched)
    assert any("body" in name for name in touched)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("kind", "macs"),
    [
        pytest.param("FCOS", 0.7, marks=pytest.mark.slow),
        pytest.param("RetinaNet", 0.7, marks=pytest.mark.slow),
        pytest.param("FasterRCNN", 0.9, marks=pytest.mark.slow),
    ],
)
def test_every_detector_is_pruned(kind, macs):
    """A few steps of each: within budget, same kind of detections, the plan replays on a fresh detector."""
    _, session = check(kind, 12, macs)

    assert session.phase == "done"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_the_pyramid_goes_where_nothing_else_may():
    """Its inner channels are coupled over all levels; with all other outputs excluded they are what is left."""
    rest = ("backbone.body", "backbone.fpn.layer_blocks", "head")
    _, session, *_ = pruned("RetinaNet", 4, sct.Budget(macs=0.99, exclude=rest))

    assert {name for event in session.history.of("removed") for name in event.removed} == {
        "backbone.fpn.inner_blocks.2.0"
    }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_region_heads_are_left_alone_with_a_reason():
    """Rows of the box head are regions, not images: it is not scored, and the history of the refusal says why."""
    _, session, *_ = pruned("FasterRCNN", 4, sct.Budget(macs=0.9))
    blind = session._driver._taps.blind

    assert all("rows are not samples" in why for why in blind.values())
    assert any("roi_heads" in name for name in blind)
    assert not any("roi_heads" in name for event in session.history.of("removed") for name in event.removed)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_benchmark_runs_from_end_to_end(tmp_path):
    """Trained, pruned at the paper's settings to its budget, tuned and measured."""
    path = Path(__file__).parents[2] / "benchmarks" / "detection.py"
    spec = importlib.util.spec_from_file_location("detection_benchmark", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    report = module.main(["--quick", "--out", str(tmp_path / "report.json")])

    assert report["cost"]["after"]["macs"] <= 0.9 * report["cost"]["before"]["macs"]
    assert all(report[stage]["loss"] < 100 for stage in ("dense", "cut", "pruned"))
    assert json.loads((tmp_path / "report.json").read_text())["events"] == report["events"] > 0
