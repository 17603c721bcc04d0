"""Training: Lightning's, deterministic by seed, resumed exactly, and quiet."""

import copy
import hashlib
import logging
import signal
from dataclasses import asdict

import pytest
import torch
from torch import nn

from secateurs.app.data import load
from secateurs.app.training import Classifier, Epoch, Loaders, Optimisation, Place, evaluate, fit
from secateurs.app.training.checkpoints import WholeFiles
from secateurs.app.training.logs import check_logger
from secateurs.app.training.rates import Rate
from secateurs.app.training.seeds import SeedEachEpoch
from secateurs.errors import DamageError, InputError

SETTINGS = Optimisation(epochs=3, lr=0.1)


def tiny():
    """A network with BatchNorm and dropout, so that statistics and random numbers count."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


@pytest.fixture(scope="module")
def data():
    return Loaders(load("digits"), batch_size=128, seed=3)


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A training that nothing interrupted."""
    model = tiny()
    return model, fit(model, data, SETTINGS, place=Place(tmp_path_factory.mktemp("whole"), seed=3, device="cpu"))


def test_the_best_epoch_by_validation_is_kept(whole, data):
    """The model that comes out validates as its best epoch did; no other epoch did better."""
    model, fitted = whole

    assert fitted.best.accuracy == pytest.approx(evaluate(model, data.val_dataloader(), device="cpu"), abs=1e-6)
    assert not any(epoch.better_than(fitted.best) for epoch in fitted.history)
    assert [1, 2, 3] == [epoch.epoch for epoch in fitted.history]
    assert not model.training


def test_the_weights_are_those_of_the_best_epoch(data, tmp_path, monkeypatch):
    """Bit for bit, also where the best epoch is not the last."""
    monkeypatch.setattr(Epoch, "better_than", lambda epoch, _: epoch.epoch == 2)
    model, states = tiny(), []
    place = Place(tmp_path, device="cpu", say=lambda _: states.append(copy.deepcopy(model)))

    assert fit(model, data, SETTINGS, place=place).best.epoch == 2
    assert [False, True, False] == [same(model, state) for state in states]


def test_the_same_seed_gives_the_same_bits(whole, data, tmp_path):
    """Whatever the global generators did before; another seed gives another network."""
    model, fitted = whole
    again, other = tiny(), tiny()
    torch.manual_seed(99)

    assert fitted == fit(again, data, SETTINGS, place=Place(tmp_path / "a", seed=3, device="cpu"))
    assert same(model, again)
    fit(other, data, SETTINGS, place=Place(tmp_path / "b", seed=4, device="cpu"))
    assert not same(model, other)


@pytest.mark.parametrize("killed", [0, 1, 2])
def test_an_interrupted_training_ends_where_it_would_have_ended(whole, data, tmp_path, monkeypatch, killed):
    """Stopped in any epoch, resumed in a new model: the same weights bit for bit, the same history."""
    model, fitted = whole
    place = Place(tmp_path, seed=3, device="cpu")
    with monkeypatch.context() as patch:
        seed = SeedEachEpoch.on_train_epoch_start

        def stop(self, trainer, pl_module):
            if trainer.current_epoch == killed:
                raise InterruptedError
            seed(self, trainer, pl_module)

        patch.setattr(SeedEachEpoch, "on_train_epoch_start", stop)
        with pytest.raises(InterruptedError):
            fit(tiny(), data, SETTINGS, place=place)

    resumed = tiny()

    assert fitted == fit(resumed, data, SETTINGS, place=place, resume=True)
    assert same(model, resumed)


def test_a_finished_training_is_not_repeated(whole, data, tmp_path, monkeypatch):
    """Killed between the last epoch and the next stage, it gives its best weights without a step."""
    model, fitted = whole
    place = Place(tmp_path, seed=3, device="cpu")
    fit(tiny(), data, SETTINGS, place=place)
    monkeypatch.setattr(Classifier, "training_step", lambda *_: pytest.fail("trained again"))
    resumed = tiny()

    assert fitted == fit(resumed, data, SETTINGS, place=place, resume=True)
    assert same(model, resumed)


def test_checkpoints_hold_no_code(data, tmp_path):
    """They load with weights_only=True, and no half-written file is left."""
    fit(tiny(), data, Optimisation(1, 0.1), place=Place(tmp_path, device="cpu"))

    assert "state_dict" in torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert ["last.ckpt", "last.ckpt.sha256", "log"] == sorted(path.name for path in tmp_path.iterdir())


class Code:
    """What a pickle would run."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('executed')",))


def test_code_in_a_checkpoint_is_refused_also_with_its_hash_computed_anew(tmp_path):
    """The hash finds damage; that nothing is run does not rest on it."""
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": Code()}, path)
    (tmp_path / "last.ckpt.sha256").write_text(hashlib.sha256(path.read_bytes()).hexdigest())

    with pytest.raises(DamageError, match="holds more than numbers"):
        WholeFiles().load_checkpoint(path)


def test_a_kill_while_a_checkpoint_is_written_leaves_the_last_good_one(data, tmp_path, monkeypatch):
    """The target is only ever replaced by a whole file."""
    place = Place(tmp_path, seed=3, device="cpu")
    fit(tiny(), data, Optimisation(1, 0.1), place=place)
    before = (tmp_path / "last.ckpt").read_bytes()

    def die(checkpoint, file):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", die)
    with pytest.raises(KeyboardInterrupt):
        fit(tiny(), data, SETTINGS, place=place)

    assert before == (tmp_path / "last.ckpt").read_bytes()


def test_ctrl_c_is_passed_on_and_still_works_afterwards(data, tmp_path, monkeypatch, ctrl_c):
    """Lightning turns it into an exit and ignores the next one; here both are as Python has them."""
    monkeypatch.setattr(Classifier, "training_step", lambda *_: signal.raise_signal(signal.SIGINT))
    handler = signal.getsignal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit(tiny(), data, SETTINGS, place=Place(tmp_path, device="cpu"))

    assert handler is signal.getsignal(signal.SIGINT)


def test_nothing_global_is_left_changed(data, tmp_path):
    """Determinism, log levels and threads are the caller's."""
    before = torch.are_deterministic_algorithms_enabled(), logging.getLogger("lightning.pytorch").level
    fit(tiny(), data, Optimisation(1, 0.1), place=Place(tmp_path, device="cpu"))

    assert before == (torch.are_deterministic_algorithms_enabled(), logging.getLogger("lightning.pytorch").level)


def test_training_says_one_line_an_epoch_and_nothing_else(data, tmp_path, capfd):
    """No advice, no summary, no banner."""
    lines = []
    fit(tiny(), data, Optimisation(2, 0.1), place=Place(tmp_path, device="cpu", say=lines.append))

    assert ["  epoch 1/2: loss", "  epoch 2/2: loss"] == [line[:17] for line in lines]
    assert ("", "") == tuple(capfd.readouterr())


def test_divergence_is_told(data, tmp_path):
    """A learning rate that blows the weights up names itself; no weights of such an epoch are ever taken."""
    with pytest.raises(InputError, match="diverged at learning rate 1e\\+30"):
        fit(tiny(), data, Optimisation(2, 1e30, rate=Rate(warmup=0.02)), place=Place(tmp_path, device="cpu"))


def test_evaluation_is_the_share_of_right_answers(data):
    """Counted by hand; the model is left in eval mode."""
    model = tiny().eval()
    with torch.no_grad():
        right = [(model(x).argmax(1) == y).double().sum().item() for x, y in data.test_dataloader()]

    assert evaluate(model.train(), data.test_dataloader(), device="cpu") == pytest.approx(sum(right) / 359, abs=1e-6)
    assert not model.training


def test_auxiliary_heads_are_trained(data):
    """The loss of each head that a network returns in train mode reaches its weights."""

    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.main, self.aux = nn.Linear(64, 10), nn.Linear(64, 10)

        def forward(self, x):
            return (self.main(x.flatten(1)), None, self.aux(x.flatten(1)))

    model = Heads()
    classifier = Classifier(model, SETTINGS)
    classifier.log = lambda *_, **__: None
    x, y = next(iter(data.val_dataloader()))
    classifier.training_step((x, y), 0).backward()

    main, aux = (nn.functional.cross_entropy(head, y) for head in (model(x)[0], model(x)[2]))
    assert classifier.training_step((x, y), 0).item() == pytest.approx((main + 0.3 * aux).item())
    assert model.aux.weight.grad.abs().sum() > 0


def test_outputs_that_are_no_logits_are_refused(data):
    """A dict of anything is not guessed at."""

    class Dictionary(nn.Module):
        def forward(self, x):
            return {"out": x}

    with pytest.raises(InputError, match="returned dict"):
        Classifier(Dictionary(), SETTINGS).training_step(next(iter(data.val_dataloader())), 0)


@pytest.mark.parametrize("bad", [{"epochs": -1}, {"lr": 0.0}, {"lr": float("nan")}, {"weight_decay": -1.0}])
def test_bad_settings_are_refused(bad):
    """Before any work."""
    with pytest.raises(InputError):
        Optimisation(**{"epochs": 1, "lr": 0.1, **bad})


def test_ties_are_broken_by_the_loss():
    """Equal accuracy: the lower loss is better; both equal: the earlier epoch stays."""
    first = Epoch(1, 0.5, 0.3, 0.9)

    assert Epoch(2, 0.5, 0.2, 0.9).better_than(first)
    assert not Epoch(2, 0.5, 0.3, 0.9).better_than(first)
    assert first == Epoch(**asdict(first))


class TestLoggers:
    """Each epoch's figures go where they are wanted, and the training is the same."""

    def test_a_missing_package_is_named(self, monkeypatch):
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(InputError, match="pip install wandb"):
            check_logger("wandb")
        check_logger("csv")

    def test_csv_has_a_row_an_epoch(self, whole, data, tmp_path):
        model = tiny()
        fit(model, data, SETTINGS, place=Place(tmp_path, seed=3, device="cpu"))
        (found,) = tmp_path.rglob("metrics.csv")

        assert found.read_text().count("\n") > SETTINGS.epochs
        assert same(model, whole[0])

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["tensorboard", "mlflow", "wandb"])
    def test_others_write_theirs(self, whole, data, tmp_path, monkeypatch, name):
        """And the weights are those of a training with another logger."""
        try:
            check_logger(name)
        except InputError as missing:
            pytest.skip(str(missing))
        monkeypatch.setenv("WANDB_MODE", "offline")
        folder = tmp_path / "run" / "checkpoints" / "training"
        model = tiny()
        fit(model, data, SETTINGS, place=Place(folder, seed=3, device="cpu", logger=name))
        kinds = {"tensorboard": "events.out.tfevents*", "mlflow": "mlflow.db", "wandb": "*.wandb"}

        assert [*folder.rglob(kinds[name])]
        assert same(model, whole[0])
