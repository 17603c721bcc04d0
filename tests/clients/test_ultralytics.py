"""Ultralytics: a pruned YOLO stays pruned in their trainer, their checkpoints and their exporter."""

import numpy as np
import pytest
import torch

import secateurs as sct

ultralytics = pytest.importorskip("ultralytics")

import yaml  # noqa: E402
from PIL import Image  # noqa: E402
from ultralytics.nn.tasks import yaml_model_load  # noqa: E402

from secateurs.integrations import ultralytics as clients  # noqa: E402
from secateurs.integrations.ultralytics_session import Pruning  # noqa: E402

pytestmark = [pytest.mark.clients, pytest.mark.filterwarnings("ignore")]
HALF = sct.Budget(macs=0.5)
SIZE = 64


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    """Eight images of a red or a green square to train on, and eight to validate on."""
    folder, random = tmp_path_factory.mktemp("squares"), np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for i in range(8):
            image = random.integers(0, 60, (SIZE, SIZE, 3), dtype=np.uint8)
            side = int(random.integers(16, 32))
            x, y = random.integers(0, SIZE - side, 2)
            image[y : y + side, x : x + side, i % 2] = 255
            Image.fromarray(image).save(folder / "images" / split / f"{i}.png")
            box = ((x + side / 2) / SIZE, (y + side / 2) / SIZE, side / SIZE, side / SIZE)
            (folder / "labels" / split / f"{i}.txt").write_text(f"{i % 2} {' '.join(map(str, box))}\n")
    table = dict(path=str(folder), train="images/train", val="images/val", names={0: "red", 1: "green"})
    (folder / "data.yaml").write_text(yaml.safe_dump(table))
    return folder


@pytest.fixture
def run(squares, tmp_path):
    """Arguments of a short training on the squares."""
    return dict(
        data=str(squares / "data.yaml"), imgsz=SIZE, batch=4, workers=0, plots=False, device="cpu", verbose=False,
        project=str(tmp_path), name="run",
    )  # fmt: skip


def dense(folder, name="yolov8n", classes=2):
    """A YOLO from its yaml, for the two classes."""
    table = yaml_model_load(f"{name}.yaml")
    written = {key: value for key, value in table.items() if key not in ("yaml_file", "scale")}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump({**written, "nc": classes}))
    torch.manual_seed(0)
    return ultralytics.YOLO(str(folder / f"{name}.yaml"))


def shapes(yolo):
    return {name: tuple(value.shape) for name, value in yolo.model.state_dict().items() if "num_batches" not in name}


def fits_onnx(checkpoint):
    """Relative difference of what ONNX Runtime and PyTorch compute."""
    import onnxruntime

    file = ultralytics.YOLO(str(checkpoint)).export(format="onnx", imgsz=SIZE, device="cpu", simplify=False)
    x = torch.rand(1, 3, SIZE, SIZE)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    with torch.no_grad():
        wanted = ultralytics.YOLO(str(checkpoint)).model.float().eval()(x)[0].numpy()
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def test_pruned_trained_validated_opened_exported(tmp_path, run):
    """Half of the MACs go, and the widths stay through train, val, best.pt, YOLO(best.pt), load, train again, ONNX."""
    whole = dense(tmp_path)
    before = shapes(whole)
    pruned = clients.prune(whole, budget=HALF, imgsz=SIZE)
    widths = shapes(pruned)

    assert isinstance(pruned, ultralytics.YOLO)
    assert shapes(whole) == before != widths
    assert pruned.pruning.cost_after.macs <= pruned.pruning.cost_before.macs // 2

    pruned.train(epochs=2, **run)
    assert shapes(pruned) == widths
    assert "metrics/mAP50(B)" in pruned.val(**{k: run[k] for k in ("data", "imgsz", "workers", "plots")}).results_dict

    best = tmp_path / "run" / "weights" / "best.pt"
    opened = ultralytics.YOLO(str(best))
    assert shapes(opened) == widths
    assert len(opened.predict(np.zeros((SIZE, SIZE, 3), np.uint8), imgsz=SIZE, verbose=False)) == 1
    with pytest.raises(KeyError, match=r"integrations\.ultralytics\.load"):
        opened.train(epochs=1, **run)
    assert fits_onnx(best) < 1e-4

    again = clients.load(best)
    again.train(epochs=1, **{**run, "name": "again"})
    assert shapes(again) == widths
    assert clients.plan_of(again).keep == pruned.pruning.plan.keep


def test_a_session_makes_its_last_cut_before_the_checkpoint(tmp_path, run):
    """A method that trains, by their callbacks: best.pt holds the pruned network, and it exports."""
    yolo = dense(tmp_path)
    before = sum(np.prod(shape) for shape in shapes(yolo).values())
    pruning = Pruning("sfp", HALF).attach(yolo)
    yolo.train(epochs=3, nbs=4, **run)

    assert pruning.session.finished
    best = tmp_path / "run" / "weights" / "best.pt"
    opened = ultralytics.YOLO(str(best))
    assert shapes(opened) == shapes(yolo)
    assert sum(np.prod(shape) for shape in shapes(opened).values()) < before
    assert clients.plan_of(best).keep == pruning.session.plan.keep
    assert fits_onnx(best) < 1e-4


def test_bad_input_is_refused_by_name(tmp_path):
    """What is no YOLO, an exported file, a dense checkpoint, a budget that nothing meets."""
    with pytest.raises(sct.errors.InputError, match="is no YOLO"):
        clients.prune(torch.nn.Linear(2, 2), budget=HALF)
    yolo = dense(tmp_path)
    with pytest.raises(sct.errors.InputError, match="dense network"):
        clients.load(tmp_path / "yolov8n.yaml")
    with pytest.raises(sct.errors.SecateursError, match=r"integrations\.ultralytics"):
        sct.prune(yolo, torch.zeros(1, 3, SIZE, SIZE), method="magnitude", budget=HALF)
    del yolo.model
    yolo.model = "weights.onnx"
    with pytest.raises(sct.errors.InputError, match="exported file"):
        clients.prune(yolo, budget=HALF)
