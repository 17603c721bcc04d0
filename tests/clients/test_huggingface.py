"""Pruned models of transformers keep the half, save, load, travel to the Hub, and train inside their Trainer."""

import copy

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

import secateurs as sct

transformers = pytest.importorskip("transformers")

from tests.clients.transformer_models import MODELS, VIT, vit  # noqa: E402

from secateurs.integrations import huggingface  # noqa: E402

pytestmark = [pytest.mark.clients, pytest.mark.filterwarnings("ignore")]
HALF = sct.Budget(macs=0.5)
CHEAP = dict(method="magnitude", budget=sct.Budget(macs=0.9))


def small(build=vit):
    torch.manual_seed(0)
    model, size = build()
    return model.eval(), {"pixel_values": torch.randn(2, 3, size, size)}


@pytest.fixture(scope="module")
def pruned_vit():
    model, x = small()
    return model, x, sct.prune(model, x, method="magnitude", budget=HALF)


def outputs(model, x):
    with torch.no_grad():
        return [leaf for leaf in tree_leaves(dict(model.eval()(**x))) if isinstance(leaf, torch.Tensor)]


def agree(one, other):
    """Equal up to rounding of their largest value: a depth of fresh weights is of the order of 1e-9."""
    return all(float((a - b).abs().max()) <= 1e-5 * float(b.abs().max()) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("build", MODELS, ids=lambda build: build.__name__)
def test_half_of_the_macs_goes_and_the_model_loads_again(build, tmp_path):
    """Half of the MACs or less stay, what stays is the masked model, and a folder gives the same model of its class."""
    model, x = small(build)
    result = sct.prune(model, x, method="magnitude", budget=HALF)

    assert result.cost_after.macs <= result.cost_before.macs // 2
    sct.verify(result.plan, model, per_group=False).raise_if_failed()

    loaded = huggingface.from_pretrained(huggingface.save_pretrained(result.model, result.plan, tmp_path))

    assert type(loaded) is type(model)
    assert agree(outputs(loaded, x), outputs(result.model, x))
    assert not agree(outputs(loaded, x), outputs(model, x))


def test_a_loaded_model_saves_its_plan_again(pruned_vit, tmp_path):
    """What was loaded, and a copy of it, write the plan by their own save_pretrained."""
    _, x, result = pruned_vit
    first = huggingface.from_pretrained(huggingface.save_pretrained(result.model, result.plan, tmp_path / "first"))
    copy.deepcopy(first).save_pretrained(tmp_path / "second")

    assert agree(outputs(huggingface.from_pretrained(tmp_path / "second"), x), outputs(result.model, x))


def test_options_are_those_of_transformers(pruned_vit, tmp_path):
    """Shards are written and read, the type of numbers is chosen, and loading can be reported on."""
    _, _, result = pruned_vit
    folder = huggingface.save_pretrained(result.model, result.plan, tmp_path, max_shard_size="10KB")
    loaded, report = huggingface.from_pretrained(folder, dtype=torch.bfloat16, output_loading_info=True)

    assert len(list(folder.glob("*.safetensors"))) > 1
    assert loaded.dtype == torch.bfloat16
    assert not report["missing_keys"]


def test_the_plan_goes_to_the_hub_with_the_weights(pruned_vit, monkeypatch):
    """push_to_hub uploads a folder that holds the plan; nothing is sent here."""
    _, _, result = pruned_vit
    sent = []
    hub = transformers.utils.hub

    class Hub:
        def create_repo(self, repo_id, **_):
            return type("Repo", (), {"repo_id": repo_id})

        def __getattr__(self, name):
            return lambda *args, **options: sent.append((name, options.get("operations") or options))

    monkeypatch.setattr(hub, "hf_api", Hub)
    monkeypatch.setattr(
        hub, "create_and_tag_model_card", lambda *_, **__: type("Card", (), {"save": lambda *_: None})()
    )
    huggingface.push_to_hub(result.model, result.plan, "me/pruned")

    assert huggingface.PLAN_FILE in repr(sent) or any(huggingface.PLAN_FILE in repr(one) for one in sent)


def test_bad_input_is_refused_by_name(pruned_vit, tmp_path):
    """A folder without a plan, another model's plan, a module that is no transformers model, an Auto class."""
    model, _, result = pruned_vit
    model.save_pretrained(tmp_path / "dense")
    with pytest.raises(sct.errors.StoreError, match=r"no pruning_plan\.json"):
        huggingface.from_pretrained(tmp_path / "dense")
    with pytest.raises(sct.errors.StoreError, match="not what the plan leaves"):
        huggingface.save_pretrained(model, result.plan, tmp_path / "wrong")
    with pytest.raises(sct.errors.InputError, match=r"secateurs\.save"):
        huggingface.carry_plan(nn.Linear(2, 2), result.plan)
    folder = huggingface.save_pretrained(result.model, result.plan, tmp_path / "pruned")
    with pytest.raises(sct.errors.InputError, match="Auto class"):
        huggingface.from_pretrained(folder, model_class=transformers.AutoModelForImageClassification)


def trainer(folder, started, **options):
    model = started.model
    rows = [{"pixel_values": torch.randn(3, 32, 32), "labels": i % 5} for i in range(16)]
    settings = dict(
        output_dir=str(folder), num_train_epochs=4, per_device_train_batch_size=4, save_strategy="epoch", report_to=[],
        logging_strategy="no", use_cpu=True, disable_tqdm=True, remove_unused_columns=False, **options,
    )  # fmt: skip
    return transformers.Trainer(
        model=model, args=transformers.TrainingArguments(**settings), train_dataset=rows, eval_dataset=rows[:4],
        callbacks=[huggingface.trainer_callback(started)],
    )  # fmt: skip


def session(seed=0):
    torch.manual_seed(seed)
    config = transformers.ViTConfig(**{**VIT, "num_hidden_layers": 1}, num_labels=5)
    model = transformers.ViTForImageClassification(config)
    x = {"pixel_values": torch.zeros(1, 3, 32, 32)}
    return sct.Session(model, x, method="sfp", budget=HALF, steps_per_epoch=4, epochs=4)


def test_trainer_prunes_and_its_last_checkpoint_loads(tmp_path):
    """The last cut comes before the last checkpoint, which is the best of those that count, and loads by its plan."""
    started = session()
    whole = started.graph.cost().macs
    options = dict(load_best_model_at_end=True, eval_strategy="epoch", metric_for_best_model="loss")
    ran = trainer(tmp_path, started, **options)
    ran.train()

    assert started.finished
    assert started.cost.macs <= whole // 2
    x = {"pixel_values": torch.randn(2, 3, 32, 32)}
    loaded = huggingface.from_pretrained(tmp_path / "checkpoint-16")
    assert agree(outputs(loaded, x), outputs(started.model, x))


def test_trainer_goes_on_from_a_checkpoint(tmp_path):
    """A fresh session brought to a checkpoint's state ends at the budget."""
    started = session()
    ran = trainer(tmp_path, started)
    ran.train()
    again = session(seed=1)
    whole = again.graph.cost().macs
    huggingface.resume(again, tmp_path / "checkpoint-8")
    assert again.step == 8

    trainer(tmp_path / "more", again).train(resume_from_checkpoint=str(tmp_path / "checkpoint-8"))

    assert again.step == 16
    assert again.cost.macs <= whole // 2
    with pytest.raises(sct.errors.StoreError, match=r"pruning_session\.pt"):
        huggingface.resume(session(), tmp_path / "more")
