"""Every reader of a file that somebody else may have written: bytes in; nothing, or one error of ours, out."""

import hashlib
import json
import tempfile
from contextlib import suppress
from io import StringIO
from pathlib import Path

import torch
from rich.console import Console
from tests.laws.networks import Tied, images, made

import secateurs as sct
from secateurs.app.cli.arguments import compose, read_file
from secateurs.app.cli.recipe import Recipe
from secateurs.app.cli.report_file import REPORT, finished
from secateurs.app.cli.run_folder import RunFolder
from secateurs.app.report import figures
from secateurs.app.report import table as report_table
from secateurs.deploy.segment_table import Table
from secateurs.errors import SecateursError
from secateurs.store import weights
from secateurs.store.manifest import read_manifest, seal

PLACE = Path(tempfile.mkdtemp(prefix="secateurs-attack-"))
"""Where files lie that a reader wants by their path; removed by whoever ends the process."""


def sealed(content):
    """A JSON document with its hash computed anew, as somebody would who can; other bytes as they are."""
    with suppress(ValueError, RecursionError):
        body = json.loads(content)
        if isinstance(body, dict):
            body.pop("seal", None)
            return json.dumps({**body, "seal": seal(body)}).encode()
    return content


def put(name, content):
    """The path of a file with these contents."""
    path = PLACE / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def plan(content):
    sct.Plan.from_json(content.decode("utf-8", errors="replace"))


def manifest(content):
    read_manifest(sealed(content))


def tensors(content):
    weights.from_bytes(content, {}, {})


def recipe(content):
    compose(Recipe(), read_file(put("recipe.yaml", content)))


def record(content):
    put("stages/pruned.json", sealed(content))
    RunFolder(PLACE).done("pruned", "accuracy", "seconds")


def report(content):
    put(REPORT, content)
    record = {"report": hashlib.sha256(content).hexdigest()}
    put("stages/measured.json", json.dumps({**record, "seal": seal(record)}).encode())
    Console(file=StringIO()).print(report_table(finished(RunFolder(PLACE))))


def table(content):
    Table.load(put("table.json", content))


def model(content):
    """A saved model whose plan.json is this, sealed, and whose weights are those of the network as it is."""
    network = made(Tied, seed=3)
    saved = PLACE / "saved"
    if not saved.exists():
        sct.save(network, sct.Plan.identity(sct.trace(network, images())), saved)
    put("saved/plan.json", sealed(content))
    sct.load(network, saved)


READERS = {"p": plan, "m": manifest, "t": tensors, "r": recipe, "s": record, "f": report, "l": table, "d": model}
"""First letter of a file of the corpus -> the reader of the rest."""


def read(content):
    """Give the bytes to the reader that their first letter names; anything but an error of ours goes through."""
    reader = READERS.get(content[:1].decode("latin-1"))
    if reader is None:
        return
    try:
        reader(content[1:])
    except SecateursError as error:
        if not str(error).strip():
            raise AssertionError("an error without words") from error


def seeds():
    """A whole file for every reader: where the search begins."""
    network = made(Tied)
    result = sct.prune(network, images(), method="l1", budget=sct.Budget(macs=0.5))
    saved = sct.save(result.model, result.plan, PLACE / "seed", overwrite=True)
    dense = sct.save(network, sct.Plan.identity(sct.trace(network, images())), PLACE / "dense", overwrite=True)
    stage = {"name": "trained", "accuracy": 0.5, "seconds": 1.0}
    some = figures.Figures(0.5, 1, 1, 1, 1, 1, 1.0)
    whole = figures.Report(
        title="a",
        before=some,
        after=some,
        widths=(figures.LayerWidth("stem", 6, 3),),
        stages=(figures.Stage("trained", 0.5, 1.0, ({"loss": 1.0},)),),
        settings=figures.Settings({}, {}, "any", {}, "cpu", 1, {}, {}, {}),
        proof=figures.Proof(0.0, 1e-9),
        protected=(figures.Kept("an output", ("head.weight",)),),
        conditions={"seed": "0"},
    )
    rows = {"format": 1, "key": {"runtime": "eager"}, "seconds": {"conv": [[3, 6, 0.001]]}}
    keys = "model: resnet20\nmacs: 0.5\nmethod: {name: l2, p: 1}\nmilestones: [1, 2]\nprotect: [conv1]\n"
    return {
        "p": result.plan.to_json().encode(),
        "m": (saved / "plan.json").read_bytes(),
        "t": weights.to_bytes({"a": torch.ones(2, 2), "b": torch.zeros(1)}),
        "r": keys.encode(),
        "s": json.dumps(stage).encode(),
        "f": whole.to_json().encode(),
        "l": json.dumps(rows).encode(),
        "d": (dense / "plan.json").read_bytes(),
    }
