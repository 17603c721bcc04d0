"""Save, a fresh process, load: the same outputs, bit for bit; anything else is refused before the model is touched."""

import hashlib
import json
import os
import pickle
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import safetensors.torch
import torch
from filelock import Timeout
from tests.laws.networks import Coupled, Tied, images, made
from torch import nn

import secateurs as sct
from secateurs.errors import ModelError, StoreError
from secateurs.network import Network
from secateurs.store import files, manifest
from secateurs.surgery.tensors import physical_order

ROOT = Path(__file__).parents[2]


def every_other(model):
    graph = sct.trace(model, images().to(next(model.parameters()).dtype))
    return sct.Plan.from_keep(graph, {g.name: range(1, g.units, 2) for g in graph.groups})


@pytest.fixture
def saved(tmp_path):
    """A pruned network, stored, and its outputs."""
    model = made(Coupled).eval()
    plan = every_other(model)
    sct.apply(plan, model)
    directory = sct.save(model, plan, tmp_path / "small")
    with torch.no_grad():
        return directory, model, model(images())


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def refused(directory, model, match):
    """Loading raises StoreError and leaves the model as it was."""
    before = {name: (t.data_ptr(), t.detach().clone()) for name, t in Network.of(model).named.items()}
    with pytest.raises(StoreError, match=match):
        sct.load(model, directory)
    for name, t in Network.of(model).named.items():
        assert t.data_ptr() == before[name][0], name
        assert torch.equal(t, before[name][1]), name


@pytest.mark.slow
def test_a_fresh_process_computes_the_same_bits(saved, tmp_path):
    """Another process builds the class, loads, and puts out the same bits; the model holds no class of ours."""
    directory, _, expected = saved
    script = f"""
        import torch, secateurs as sct
        from tests.laws.networks import Coupled, images
        model = sct.load(Coupled(), {str(directory)!r}).eval()
        assert not any(type(m).__module__.startswith("secateurs") for m in model.modules())
        with torch.no_grad():
            out = model(images())
        torch.save([out["logits"], out["more"][0]], {str(tmp_path / "out.pt")!r})
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")]), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, env=environment, timeout=120)
    logits, more = torch.load(tmp_path / "out.pt", weights_only=True)

    assert torch.equal(expected["logits"], logits)
    assert torch.equal(expected["more"][0], more)


def test_two_files_and_no_pickle(saved):
    """Weights as safetensors, all else as JSON with the versions that wrote it."""
    directory, _, _ = saved
    written = json.loads((directory / "plan.json").read_text())

    assert sorted(contents(directory)) == ["model.safetensors", "plan.json"]
    assert written["secateurs"] == {"format": 1, "version": sct.__version__, "torch": str(torch.__version__)}
    assert all(b"pickle" not in content for content in contents(directory).values())


def test_the_plan_is_read_back(saved):
    directory, model, _ = saved
    plan = sct.load_plan(directory)

    assert plan.graph is None
    assert plan.signature_after() == {name: tuple(t.shape) for name, t in Network.of(model).named.items()}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_ties_types_and_memory_order_are_stored(tmp_path, dtype):
    """A tied tensor is stored once and tied again; types and channels_last come back, flags are the class's."""
    model = made(Tied).to(dtype).to(memory_format=torch.channels_last)
    plan = every_other(model)
    sct.apply(plan, model)
    fresh = Tied()
    fresh.head.weight.requires_grad_(False)
    parameters = {name: id(t) for name, t in Network.of(fresh).named.items()}
    loaded = sct.load(fresh, sct.save(model, plan, tmp_path / "tied"))

    assert loaded is fresh
    assert parameters == {name: id(t) for name, t in Network.of(loaded).named.items()}
    assert loaded.left.weight is loaded.right.weight
    assert not loaded.head.weight.requires_grad
    assert loaded.stem.out_channels == 3
    for name, tensor in Network.of(model).named.items():
        other = Network.of(loaded).named[name]
        assert (tensor.dtype, physical_order(tensor)) == (other.dtype, physical_order(other)), name
        assert torch.equal(tensor, other), name
    assert json.loads((tmp_path / "tied" / "plan.json").read_text())["aliases"] == {"right.weight": "left.weight"}


def test_a_masked_network_is_stored_with_the_identity(tmp_path):
    """Whatever kept its shape (masked, unstructured, only trained) is saved with the plan that removes nothing."""
    model = made(Tied)
    masked = sct.mask(every_other(model), model)
    plan = sct.Plan.identity(sct.trace(model, images()))
    loaded = sct.load(Tied(), sct.save(masked, plan, tmp_path / "masked"))

    assert all(torch.equal(t, Network.of(masked).named[n]) for n, t in Network.of(loaded).named.items())


def test_two_prunings_are_stored_composed(tmp_path):
    """A network pruned twice is loaded in one step; with the second plan alone it is not saved."""
    model = made(Tied)
    graph = sct.trace(model, images())
    first = sct.Plan.from_keep(graph, {"stem": range(1, 6)})
    second = sct.Plan.from_keep(graph.shrink(first.keep), {"stem": range(3)})
    sct.apply(second, sct.apply(first, model))
    with pytest.raises(StoreError, match=r"not what the plan leaves: other shape: stem.weight is 3×3×3×3, not 5×3×3×3"):
        sct.save(model, first, tmp_path / "wrong")

    assert not (tmp_path / "wrong").exists()
    loaded = sct.load(Tied(), sct.save(model, first.then(second), tmp_path / "twice"))
    assert torch.equal(loaded.stem.weight, model.stem.weight)


class Counting(nn.Module):
    """Keeps a number beside its tensors."""

    def __init__(self, value=None):
        super().__init__()
        self.fc = nn.Linear(2, 2)
        self.register_buffer("scratch", torch.zeros(2), persistent=False)
        self.value = value

    def get_extra_state(self):
        return self.value

    def set_extra_state(self, state):
        if state == "bad":
            raise RuntimeError("bad state")
        self.value = state

    def forward(self, x):
        return self.fc(x) + self.scratch


def test_all_that_a_module_keeps_is_stored(tmp_path):
    """Buffers outside the state dict and extra state that JSON can hold come back; other extra state is refused."""
    model = Counting({"steps": 3, "names": ["a"]})
    model.scratch.fill_(2.5)
    plan = sct.Plan.identity(sct.trace(model, torch.ones(1, 2)))
    loaded = sct.load(Counting(), sct.save(model, plan, tmp_path / "a"))

    assert loaded.value == {"steps": 3, "names": ["a"]}
    assert loaded.scratch.tolist() == [2.5, 2.5]
    for value in (torch.ones(1), (1, 2), {1: 2}, object()):
        with pytest.raises(StoreError, match="extra state"):
            sct.save(Counting(value), plan, tmp_path / "b")
    refused(sct.save(Counting("fine"), plan, tmp_path / "c"), nn.Linear(2, 2), "fc.weight")


def test_a_state_that_is_refused_by_its_module_undoes_the_load(tmp_path):
    model = Counting("bad")
    plan = sct.Plan.identity(sct.trace(model, torch.ones(1, 2)))
    directory = sct.save(model, plan, tmp_path / "a")
    fresh = Counting("mine")
    before = fresh.fc.weight.detach().clone()
    with pytest.raises(RuntimeError, match="bad state"):
        sct.load(fresh, directory)

    assert torch.equal(before, fresh.fc.weight)
    assert fresh.value == "mine"


def test_another_class_is_refused_by_name(saved):
    """Missing, unexpected and differently shaped tensors are named; so is a model that is pruned already."""
    directory, model, _ = saved
    refused(directory, Tied(), r"missing: expand.weight.*unexpected: stem.bias.*stem.weight is 6×3×3×3, not 8×3×3×3")
    refused(directory, model, "It has the pruned shapes already")
    with pytest.raises(ModelError):
        sct.load(len, directory)


class Strided(nn.Module):
    """A network with the tensors of others that compute something else."""

    def __init__(self, stride=1):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=stride)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        return self.head(self.conv(x))


class Renamed(Strided):
    """Another class."""


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Renamed(), r"the model was Strided\(\) .* is Renamed\(\) here"),
        (Strided(2), r"conv was .*stride=\(1, 1\).*\(2, 2\)"),
    ],
    ids=["class", "setting"],
)
def test_another_class_with_the_same_tensors_is_warned_of(tmp_path, model, words):
    """It is loaded, because a class may have been renamed, and what differs is named."""
    dense = Strided()
    result = sct.prune(dense, torch.ones(1, 3, 8, 8), method="l1", budget=sct.Budget(macs=0.5))
    directory = sct.save(result.model, result.plan, tmp_path / "a")
    with pytest.warns(UserWarning, match=words):
        loaded = sct.load(model, directory)

    assert torch.equal(loaded.conv.weight, result.model.conv.weight)


def test_files_without_descriptions_are_loaded_as_before(tied):
    """Those that an earlier version wrote."""
    resealed(tied, lambda body: body.pop("modules"))

    assert sct.load(made(Tied, seed=1), tied).stem.out_channels == 6


def test_a_tie_that_would_lose_a_tensor_is_refused(tmp_path):
    """Two different tensors cannot be loaded into one."""

    class Untied(Tied):
        def __init__(self):
            super().__init__()
            self.right.weight = nn.Parameter(self.left.weight.detach() + 1)

    model = made(Untied)
    directory = sct.save(model, sct.Plan.identity(sct.trace(model, images())), tmp_path / "a")
    refused(directory, Tied(), "left.weight and right.weight are one tensor in the model given")


def damaged(directory, name, change):
    path = directory / name
    path.write_bytes(change(path.read_bytes()))


DAMAGE = {
    "truncated weights": ("model.safetensors", lambda b: b[:-7], r"has \d+ of \d+ bytes"),
    "changed weights": ("model.safetensors", lambda b: b[:-1] + bytes([b[-1] ^ 1]), "was changed"),
    "pickled weights": ("model.safetensors", lambda _: pickle.dumps({}), "is a pickle"),
    "empty weights": ("model.safetensors", lambda _: b"", "has 0 of"),
    "truncated plan": ("plan.json", lambda b: b[: len(b) // 2], "was not written by secateurs.save"),
    "changed plan": (
        "plan.json",
        lambda b: b.replace(b'"keep": "1,3,5,7"', b'"keep": "0,3,5,7"', 1),
        "was changed after",
    ),
    "pickled plan": ("plan.json", lambda _: pickle.dumps({}), "is a pickle"),
    "unknown format": ("plan.json", lambda b: b.replace(b'"format": 1', b'"format": 99', 1), "has format 99"),
    "other JSON": ("plan.json", lambda _: b"[1, 2]", "was not written by"),
}


@pytest.mark.parametrize(("name", "change", "match"), DAMAGE.values(), ids=DAMAGE)
def test_damage_is_refused(saved, name, change, match):
    """Cut off, changed, replaced: each has its own words, and nothing is half loaded."""
    directory, _, _ = saved
    before = (directory / name).read_bytes()
    damaged(directory, name, change)

    assert (directory / name).read_bytes() != before
    refused(directory, made(Coupled, seed=1), match)


@pytest.mark.parametrize("name", ["model.safetensors", "plan.json"])
def test_a_missing_file_is_named(saved, name):
    directory, _, _ = saved
    (directory / name).unlink()
    refused(directory, Coupled(), f"has no {name}")


def test_what_is_no_saved_model_is_refused(tmp_path):
    """A path that is not there, a file, and a checkpoint of torch.save."""
    torch.save(Tied().state_dict(), tmp_path / "model.pt")
    (tmp_path / "note.txt").write_text("hello")
    refused(tmp_path / "nowhere", Tied(), "does not exist")
    refused(tmp_path / "model.pt", Tied(), "is a pickle, which is never opened")
    refused(tmp_path / "note.txt", Tied(), "is a file")
    refused(tmp_path, Tied(), r"has no plan.json \(there is: model.pt, note.txt\)")


def test_a_full_directory_is_not_written_into_unasked(saved, tmp_path):
    """With `overwrite` the two files are replaced, and others stay."""
    directory, model, _ = saved
    plan = sct.load_plan(directory)
    (directory / "notes.txt").write_text("mine")
    before = contents(directory)
    with pytest.raises(StoreError, match="is not empty"):
        sct.save(model, plan, directory)
    assert before == contents(directory)
    with torch.no_grad():
        model.head.bias.add_(1)
    sct.save(model, plan, directory, overwrite=True)

    assert torch.equal(sct.load(Coupled(), directory).head.bias, model.head.bias)
    assert contents(directory).keys() == before.keys()
    (tmp_path / "empty").mkdir()
    sct.save(model, plan, tmp_path / "empty")


@pytest.mark.parametrize("call", [1, 2, 3])
def test_a_failed_save_leaves_what_was_there(saved, tmp_path, call, monkeypatch):
    """The disk fills at any of the flushes: an old model is still the old one, a new directory is not left behind."""
    directory, model, _ = saved
    before, plan = contents(directory), sct.load_plan(directory)
    with torch.no_grad():
        model.head.bias.add_(1)
    real, calls = os.fsync, []

    def full(handle):
        calls.append(handle)
        if len(calls) == call:
            raise OSError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(StoreError, match=r"cannot be written: No space left on device"):
        sct.save(model, plan, directory, overwrite=True)
    calls.clear()
    with pytest.raises(StoreError, match="No space left"):
        sct.save(model, plan, tmp_path / "a" / "b")

    assert before == contents(directory)
    assert not (tmp_path / "a").exists()


def test_a_file_in_the_way_is_an_error_of_the_store(saved, tmp_path):
    directory, model, _ = saved
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StoreError, match="cannot be written"):
            sct.save(model, sct.load_plan(directory), place)


def test_what_has_no_values_is_not_saved(tmp_path):
    model = made(Tied)
    plan = sct.Plan.identity(sct.trace(model, images()))
    with pytest.raises(StoreError, match="no plain values"):
        sct.save(model.to("meta"), plan, tmp_path / "meta")


def resealed(directory, change):
    """Change plan.json as somebody would who can compute its seal."""
    path = directory / "plan.json"
    body = json.loads(path.read_text())
    change(body)
    body.pop("seal")
    path.write_text(json.dumps({**body, "seal": manifest.seal(body)}))


def put(*keys, value):
    def change(body):
        for key in keys[:-1]:
            body = body[key]
        body[keys[-1]] = value

    return change


HOSTILE = {
    "runs that would take all memory": put("plan", "groups", "stem", "keep", value="0-999999999999"),
    "units as many": put("plan", "groups", "stem", value={"units": 10**12, "keep": "0-999999999999"}),
    "shapes beyond any memory": put("plan", "signature", "stem.weight", value=[10**30, 1]),
    "aliases of another type": put("aliases", value=[1]),
    "aliases of nothing": put("aliases", value={"no": "name"}),
    "types of another type": put("dtypes", value=3),
    "an unknown type": put("dtypes", "stem.weight", value="int7"),
    "states of another type": put("states", value=[]),
    "states of no module": put("states", value={"nowhere": 1}),
    "states of a module without": put("states", value={"stem": 1}),
    "orders out of range": put("orders", value={"stem.weight": [0, 1, 2, 9]}),
    "orders in words": put("orders", value={"stem.weight": "abcd"}),
    "a size in words": put("weights", "size", value="many"),
    "a size beyond its tensors": put("weights", "size", value=10**15),
    "a hash that is a path": put("weights", "sha256", value="../../etc/passwd"),
    "its modules": put("plan", "attributes", value={":_modules": 3}),
    "a module's parameters": put("plan", "attributes", value={"stem:_parameters": 3}),
    "a method": put("plan", "attributes", value={":forward": 3}),
    "hooks": put("plan", "attributes", value={":_forward_hooks": 3}),
    "a class": put("plan", "attributes", value={"stem:__class__": 3}),
    "a stride": put("plan", "attributes", value={"stem:stride": [3, 3]}),
    "an epsilon": put("plan", "attributes", value={"norm:eps": 3}),
    "no groups": put("plan", "attributes", value={"stem:groups": 0}),
    "more groups": put("plan", "attributes", value={"stem:groups": 3}),
    "a weight": put("plan", "attributes", value={"stem:weight": 3}),
    "descriptions of another type": put("modules", value=[1]),
    "a description that is no text": put("modules", value={"": 3}),
    "the head of the file": put("secateurs", value=1),
}


@pytest.fixture
def tied(tmp_path):
    model = made(Tied)
    return sct.save(model, sct.Plan.identity(sct.trace(model, images())), tmp_path / "tied")


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_hostile_plans_with_their_seal_recomputed_are_refused(tied, change):
    """One error of ours, and the model is as it was: its tensors, its attributes, its modules."""
    resealed(tied, change)
    model = made(Tied, seed=1)
    before = [(m, {k: id(v) for k, v in vars(m).items()}) for m in model.modules()]
    refused(tied, model, "plan.json|saved model|plan sets")

    assert before == [(m, {k: id(v) for k, v in vars(m).items()}) for m in model.modules()]


def test_a_layer_that_could_not_run_is_not_loaded(tied):
    """Plan and weights forged so that they agree: a weight loses outputs that its bias keeps."""
    state = safetensors.torch.load((tied / "model.safetensors").read_bytes())
    weights = safetensors.torch.save({**state, "stem.weight": state["stem.weight"][:4].clone()})
    (tied / "model.safetensors").write_bytes(weights)
    resealed(tied, put("weights", value={"sha256": hashlib.sha256(weights).hexdigest(), "size": len(weights)}))
    resealed(tied, put("plan", "tensors", value={"stem.weight": {"0": "0-3"}}))
    refused(tied, made(Tied, seed=1), "They belong to one layer")


def test_nesting_without_end_is_refused(tied):
    (tied / "plan.json").write_text("[" * 200_000)
    refused(tied, made(Tied), "not written by secateurs.save")


def holes(path):
    path.touch()
    os.truncate(path, 40 * 2**30)


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), Path.mkdir, holes])
@pytest.mark.parametrize("name", ["plan.json", "model.safetensors"])
def test_files_that_are_no_files_are_not_waited_for(tied, name, make):
    """A named pipe, a device without end, a folder, a file of 40 GB that is all holes."""
    (tied / name).unlink()
    make(tied / name)
    refused(tied, made(Tied), "no plain file|where at most|cannot be read")


def test_a_file_beyond_its_bound_is_not_read(tmp_path):
    """By its size on the disk, before any byte of it is in memory."""
    (tmp_path / "plan.json").write_bytes(b"1234")

    assert files.read_file(tmp_path / "plan.json", most=4) == b"1234"
    with pytest.raises(StoreError, match="has 4 bytes, where at most 3"):
        files.read_file(tmp_path / "plan.json", most=3)


def test_a_model_without_memory_is_told_how_to_get_some(tied):
    """On meta nothing could be loaded; with memory, everything is."""
    with pytest.raises(StoreError, match="to_empty"):
        sct.load(Tied().to("meta"), tied)
    loaded = sct.load(Tied().to("meta").to_empty(device="cpu"), tied)

    assert all(torch.equal(t, Network.of(loaded).named[n]) for n, t in Network.of(made(Tied)).named.items())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_named(tied, tmp_path, value):
    """Neither saved nor loaded; masks of infinity are."""
    model, plan = made(Tied), sct.load_plan(tied)
    with torch.no_grad():
        model.left.weight[0, 0] = value
    with pytest.raises(StoreError, match=r"left.weight holds \d+ values"):
        sct.save(model, plan, tmp_path / "bad")
    weights = safetensors.torch.save({n: t for n, t in Network.of(model).named.items() if n != "right.weight"})
    (tied / "model.safetensors").write_bytes(weights)
    size = {"sha256": hashlib.sha256(weights).hexdigest(), "size": len(weights)}
    resealed(tied, put("weights", value=size))
    refused(tied, made(Tied, seed=1), r"left.weight holds \d+ values")


@pytest.mark.parametrize("overwrite", [False, True])
def test_many_threads_save_into_one_folder(tied, tmp_path, overwrite):
    """One whole model is left; who came too late is told so."""
    plan, models = sct.load_plan(tied), [made(Tied, seed=seed) for seed in range(4)]
    for attempt in range(5):
        directory = tmp_path / str(attempt)

        def save(model, directory=directory):
            try:
                return sct.save(model, plan, directory, overwrite=overwrite)
            except StoreError as error:
                return str(error)

        with ThreadPoolExecutor(4) as pool:
            said = list(pool.map(save, models))
        loaded = sct.load(Tied(), directory)

        assert any(torch.equal(loaded.stem.weight, model.stem.weight) for model in models)
        assert said.count(directory) == (4 if overwrite else 1)
        assert all(one == directory or "is not empty" in one for one in said)
        assert sorted(contents(directory)) == ["model.safetensors", "plan.json"]


def test_a_lock_beside_a_directory_keeps_everybody_else_out(tmp_path, monkeypatch):
    """Where directories cannot be locked (Windows): also under another name of the directory; nothing is left in it."""
    monkeypatch.setattr(files, "gettempdir", lambda: str(tmp_path))
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a", target_is_directory=True)
    with files.lock_beside(tmp_path / "a"), pytest.raises(Timeout):
        files.lock_beside(tmp_path / "link").acquire(timeout=0)
    with files.lock_beside(tmp_path / "link"):
        assert [*(tmp_path / "a").iterdir()] == []


def test_links_are_replaced_and_not_followed(tied, tmp_path):
    """What a planted link points to stays as it is."""
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")
    (tmp_path / "planted").mkdir()
    for name in ("plan.json", "model.safetensors"):
        (tmp_path / "planted" / name).symlink_to(mine)
    sct.save(made(Tied), sct.load_plan(tied), tmp_path / "planted", overwrite=True)

    assert mine.read_text() == "mine"
    assert sct.load(Tied(), tmp_path / "planted")
