"""What happens in a step of training: averages, accumulation, clipping, precision, mixing, augmentation."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.data import default_collate

from secateurs.allocate import AsIs, Ranked
from secateurs.app.cli.from_recipe import in_rounds, optimisation
from secateurs.app.cli.recipe import Recipe
from secateurs.app.data import Augmentation, Preprocessing, load
from secateurs.app.training import Classifier, Loaders, Optimisation, Place, Stepping, evaluate, fit, score
from secateurs.app.training.mixing import as_probabilities, mixed
from secateurs.app.training.rates import Rate
from secateurs.app.training.seeds import SeedEachEpoch
from secateurs.criteria import Taylor
from secateurs.errors import InputError
from secateurs.methods import SFP, Gradual
from secateurs.session.schedule import Cubic

ONE = Rate("constant")


def tiny():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 10)
    )


@pytest.fixture(scope="module")
def data():
    return Loaders(load("digits"), batch_size=128, seed=3)


def trained(data, folder, *, epochs=1, resume=False, model=None, **stepping):
    model = model or tiny()
    how = Optimisation(epochs, 0.1, rate=ONE, stepping=Stepping(**stepping))
    return model, fit(model, data, how, place=Place(folder, seed=3, device="cpu"), resume=resume)


@pytest.fixture
def steps(monkeypatch):
    """The weights after every step, and the gradients that it was made with."""
    seen, step = [], torch.optim.SGD.step

    def watched(self, closure=None):
        found = step(self, closure)
        parameters = [p for group in self.param_groups for p in group["params"]]
        seen.append(([p.detach().clone() for p in parameters], [p.grad.clone() for p in parameters]))
        return found

    monkeypatch.setattr(torch.optim.SGD, "step", watched)
    return seen


def test_an_average_of_the_weights_is_what_is_kept(data, tmp_path, steps):
    """Each step moves it by 1 - decay towards the weights; it is what validates."""
    model, fitted = trained(data, tmp_path, ema=0.5)
    average = steps[0][0]
    for weights, _ in steps[1:]:
        average = [0.5 * a + 0.5 * w for a, w in zip(average, weights, strict=True)]
    kept = sorted(model.parameters(), key=lambda p: p.ndim <= 1)

    for a, b in zip(average, kept, strict=True):
        torch.testing.assert_close(a, b.detach(), rtol=1e-4, atol=1e-6)
    assert fitted.best.accuracy == pytest.approx(evaluate(model, data.val_dataloader(), device="cpu"), abs=1e-6)


def test_an_interrupted_average_goes_on(data, tmp_path, monkeypatch):
    """The bits of a training that was not interrupted."""
    whole, _ = trained(data, tmp_path / "whole", epochs=2, ema=0.9)
    seed = SeedEachEpoch.on_train_epoch_start

    def stop(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            raise InterruptedError
        seed(self, trainer, pl_module)

    with monkeypatch.context() as patch:
        patch.setattr(SeedEachEpoch, "on_train_epoch_start", stop)
        with pytest.raises(InterruptedError):
            trained(data, tmp_path / "cut", epochs=2, ema=0.9)
    again, _ = trained(data, tmp_path / "cut", epochs=2, resume=True, ema=0.9)

    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))


def test_batches_are_accumulated_and_gradients_clipped(data, tmp_path, steps):
    """One step for three batches, and one for the rest; no norm above the largest."""
    trained(data, tmp_path, accumulate=3, clip=0.01)

    assert Stepping(accumulate=3).steps(len(data.shuffled(0))) == len(steps) == 3
    for _, gradients in steps:
        assert torch.stack([g.norm() for g in gradients]).norm().item() == pytest.approx(0.01, rel=1e-3)


def test_layout_and_precision_change_rounding_only(data, tmp_path, steps):
    """The same training, up to float32 and bfloat16; the layout that comes out is the one that went in."""
    plain, _ = trained(data, tmp_path / "a")
    last, _ = trained(data, tmp_path / "b", channels_last=True)
    mixed_precision, _ = trained(data, tmp_path / "c", precision="bf16-mixed")
    count = len(steps) // 3

    for a, b, c in zip(plain.parameters(), last.parameters(), mixed_precision.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
        assert (a - c).abs().max() < 0.1
        assert b.is_contiguous()
    first = steps[2 * count][1]
    assert not all(torch.equal(g, h) for g, h in zip(first, steps[0][1], strict=True))


def test_float16_needs_a_gpu(data, tmp_path):
    """Said before any step."""
    with pytest.raises(InputError, match="bf16-mixed"):
        trained(data, tmp_path, precision="16-mixed")


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_images_are_mixed_and_their_labels_with_them(kind):
    """The share of a label is the share of its image: of its values in mixup, of its pixels in CutMix."""
    torch.manual_seed(0)
    images = torch.eye(4)[:, :, None, None] * torch.ones(4, 4, 8, 8)  # channel = label
    found, targets = mixed(images, torch.arange(4), Stepping(**{kind: 1.0}), classes=4)

    assert torch.allclose(targets, found.mean((2, 3)), atol=1e-6)
    assert (targets.max(1).values < 1).all()
    assert as_probabilities(torch.arange(4), 4).equal(torch.eye(4))


def test_a_training_step_learns_from_mixed_labels(data):
    """Its loss is the cross entropy against them."""
    classifier = Classifier(tiny().eval(), Optimisation(1, 0.1, stepping=Stepping(mixup=0.4)), classes=10)
    classifier.log = lambda *_, **__: None
    batch = next(iter(data.val_dataloader()))
    torch.manual_seed(1)
    loss = classifier.training_step(batch, 0)
    torch.manual_seed(1)
    images, targets = mixed(*batch, Stepping(mixup=0.4), 10)

    assert loss.item() == pytest.approx(nn.functional.cross_entropy(classifier.model(images), targets).item())


def test_training_images_alone_are_augmented(data):
    """As asked for, and the same for the same seed; without a crop and without more they are the images as they are."""
    splits = load("digits")
    wild = splits.augmented(Augmentation(randaugment=2, erase=0.5))
    still = splits.augmented(Augmentation(crop="none"))
    pick = list(range(20))

    def drawn(part):
        torch.manual_seed(0)
        return part.__getitems__(pick)[0]

    assert drawn(wild.train).equal(drawn(wild.train))
    assert not drawn(wild.train).equal(drawn(splits.train))
    assert drawn(still.train).equal(drawn(splits.calibration))
    assert drawn(wild.calibration).equal(drawn(splits.calibration))
    assert drawn(wild.validation).equal(drawn(splits.validation))
    white = splits.train.standard(torch.full((1, 1, 1, 1), 16, dtype=torch.uint8)).item()
    assert drawn(wild.train).max() <= white + 1e-6


def test_folders_are_augmented_alike(tmp_path):
    """Without a crop, an image is what the other parts see of it."""
    from PIL import Image

    for name in "ab":
        (tmp_path / name).mkdir()
        for number in range(10):
            Image.effect_noise((20, 20), 90).convert("RGB").save(tmp_path / name / f"{number}.png")
    splits = load(f"imagefolder:{tmp_path}", how=Preprocessing(16))
    still = splits.augmented(Augmentation(crop="none")).train
    wild = splits.augmented(Augmentation(randaugment=2)).train

    assert still[0][0].equal(splits.calibration[0][0])
    assert not wild[0][0].equal(splits.calibration[0][0])
    assert default_collate([wild[n] for n in range(4)])[0].shape == (4, 3, 16, 16)


def test_one_of_five_names_may_be_right(data):
    """Top-5 is counted by hand, and top-1 with it."""
    model = tiny().eval()
    with torch.no_grad():
        found = [(model(x).topk(5, 1).indices == y[:, None], len(y)) for x, y in data.test_dataloader()]
    right = sum(hits.any(1).sum().item() for hits, _ in found)
    got = score(model, data.test_dataloader(), device="cpu")

    assert got.top5 == pytest.approx(right / 359, abs=1e-6)
    assert got.accuracy == pytest.approx(sum(hits[:, 0].sum().item() for hits, _ in found) / 359, abs=1e-6)


@pytest.mark.parametrize(
    "bad",
    [{"ema": 1.0}, {"accumulate": 0}, {"clip": 0.0}, {"mixup": -0.1}, {"cutmix": float("inf")}],
)
def test_steps_that_cannot_be_are_refused(bad):
    """By name."""
    with pytest.raises(InputError, match=next(iter(bad))):
        Stepping(**bad)


@pytest.mark.parametrize("bad", [{"erase": 2.0}, {"randaugment": -1}, {"magnitude": 31}])
def test_augmentations_that_cannot_be_are_refused(bad):
    """By name."""
    with pytest.raises(InputError, match=next(iter(bad))):
        Augmentation(**bad)


def test_each_training_of_a_run_has_its_own_rate():
    """What a part does not name is that of fine-tuning."""
    recipe = Recipe(
        lr=0.01, schedule="multi-step", milestones=(60, 90), prune_lr=0.001, prune_schedule="constant", nesterov=False
    )
    train, prune, recover = (optimisation(recipe, part) for part in ("train", "prune", "recover"))

    assert (train.lr, prune.lr, recover.lr) == (0.1, 0.001, 0.01)
    assert [part.rate.shape for part in (train, prune, recover)] == ["multi-step", "constant", "multi-step"]
    assert train.rate.milestones == recover.rate.milestones == (60, 90)
    with pytest.raises(InputError, match="step"):
        optimisation(Recipe(schedule="step"), "train")
    assert optimisation(Recipe(schedule="step", step_every=2), "train").rate.factor(4, steps_per_epoch=1, epochs=9) == (
        pytest.approx(0.01)
    )


def test_criteria_go_in_rounds_and_methods_do_not():
    """A method of a paper has rounds of its own, or none."""
    found = in_rounds(Recipe(rounds=3, round_schedule="cubic", ranking="as-is"), Taylor())

    assert found == Gradual(Taylor(), allocator=Ranked(AsIs()), schedule=Cubic(), rounds=3, end=1.0, first="cut")
    assert in_rounds(Recipe(), Taylor()) == Taylor()
    with pytest.raises(InputError, match="no criterion"):
        in_rounds(Recipe(rounds=3), SFP())


def test_the_model_of_a_training_is_not_the_average_itself(data, tmp_path):
    """Deep copies are of the average: nothing of the training's machinery stays on the model."""
    model, _ = trained(data, tmp_path, ema=0.9)

    assert set(copy.deepcopy(model).state_dict()) == set(tiny().state_dict())
