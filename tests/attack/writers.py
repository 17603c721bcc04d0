"""What writes files, for `killed_everywhere`: what is there before, the work, and what must be true after a kill."""

import torch
from tests.laws.networks import Tied, images, made

import secateurs as sct
from secateurs.app.cli.run_folder import RunFolder
from secateurs.app.training.checkpoints import WholeFiles
from secateurs.deploy.segment_table import Table
from secateurs.errors import SecateursError
from secateurs.store.files import is_unfinished

TRAINED = dict.fromkeys(("optimizer_states", "lr_schedulers", "loops", "callbacks", "epoch", "global_step"), 0)


def pruned(seed, units):
    """A small network with a tie, pruned, and its plan."""
    model = made(Tied, seed=seed)
    plan = sct.Plan.from_keep(sct.trace(model, images()), {"stem": range(units)})
    return sct.apply(plan, model), plan


def same(one, other):
    """Whether two networks hold the same bits."""
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(a.shape == b.shape and torch.equal(a, b) for a, b in pairs)


def loads(place, *models):
    """Whether a folder holds one of the models."""
    try:
        found = sct.load(Tied(), place)
    except SecateursError:
        return False
    return any(same(found, model) for model in models)


def unfinished(place):
    """What a writer left that was killed."""
    return [path.name for path in place.rglob("*") if is_unfinished(path)]


def a_new_model(folder):
    """It is there, or saving again makes it so; nothing of the first try is left."""
    new = pruned(0, 4)

    def check(call):
        place = folder / str(call)
        sct.save(*new, place, overwrite=place.is_dir() and (place / "plan.json").exists())
        return "" if loads(place, new[0]) and not unfinished(place) else "saving again does not make it whole"

    return lambda call: folder.mkdir(exist_ok=True), lambda call: sct.save(*new, folder / str(call)), check


def a_model_over_another(folder):
    """The old or the new one loads, never neither; a third save works and leaves nothing behind."""
    old, new, third = pruned(0, 4), pruned(1, 5), pruned(2, 3)

    def check(call):
        place = folder / str(call)
        if not loads(place, old[0], new[0]):
            return "neither the old nor the new model loads"
        sct.save(*third, place, overwrite=True)
        left = sorted(path.name for path in place.iterdir())
        whole = loads(place, third[0]) and left == ["model.safetensors", "plan.json"]
        return "" if whole else f"a third save leaves {left}"

    return (
        lambda call: sct.save(*old, folder / str(call)),
        lambda call: sct.save(*new, folder / str(call), overwrite=True),
        check,
    )


def a_table_of_times(folder):
    """The old or the new one is read."""
    tables = [Table({"runtime": "eager"}, {"conv": {(3, n): 0.5}}) for n in (6, 7)]

    def check(call):
        return "" if Table.load(folder / str(call) / "t.json") in tables else "another table is read"

    def prepare(call):
        (folder / str(call)).mkdir(parents=True)
        tables[0].save(folder / str(call) / "t.json")

    return prepare, lambda call: tables[1].save(folder / str(call) / "t.json"), check


def a_record_of_a_stage(folder):
    """The old or the new one is read."""
    records = [{"accuracy": 0.5, "seconds": n} for n in (1, 2)]

    def check(call):
        return "" if RunFolder(folder / str(call)).done("pruned", "accuracy") in records else "another record is read"

    return (
        lambda call: RunFolder(folder / str(call)).finish("pruned", records[0]),
        lambda call: RunFolder(folder / str(call)).finish("pruned", records[1]),
        check,
    )


def a_checkpoint(folder):
    """The old or the new one is gone on from."""

    def write(call, value):
        WholeFiles().save_checkpoint({"state_dict": {"a": value}, **TRAINED}, folder / str(call) / "last.ckpt")

    def check(call):
        found = WholeFiles().load_checkpoint(folder / str(call) / "last.ckpt")["state_dict"]["a"]
        return "" if found in (1, 2) else "another checkpoint is read"

    return lambda call: write(call, 1), lambda call: write(call, 2), check


def an_exported_file(folder):
    """What was at its place, or the new file, to the byte."""
    folder.mkdir()
    models = [two_layers(width) for width in (3, 4)]
    device = sct.Device("eager")

    def write(place, model):
        sct.export(model, torch.zeros(1, 2), place, to="torch-export", device=device)

    for name, model in zip(("old", "new"), models, strict=True):
        write(folder / f"{name}.pt2", model)

    def check(call):
        found = torch.export.load(folder / f"{call}.pt2").module()(torch.ones(1, 2))
        return "" if any(torch.equal(found, m(torch.ones(1, 2))) for m in models) else "neither of the files is read"

    def prepare(call):
        (folder / f"{call}.pt2").write_bytes((folder / "old.pt2").read_bytes())

    return prepare, lambda call: write(folder / f"{call}.pt2", models[1]), check


def two_layers(width):
    """A network of two layers."""
    return torch.nn.Sequential(torch.nn.Linear(2, width), torch.nn.Linear(width, 2)).eval()


WRITERS = (
    a_new_model,
    a_model_over_another,
    a_table_of_times,
    a_record_of_a_stage,
    a_checkpoint,
    an_exported_file,
)
