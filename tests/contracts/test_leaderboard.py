"""The leaderboard says what the records say: seeds together, controls always named, nothing decided on the test."""

import csv
import hashlib
import io
import json
from html.parser import HTMLParser

import pytest

from secateurs.app.cli import main
from secateurs.app.cli.recipe import Recipe
from secateurs.app.cli.report_file import REPORT
from secateurs.app.cli.run_folder import RunFolder
from secateurs.app.leaderboard import read_committed, read_records, standings
from secateurs.app.leaderboard.archive import written
from secateurs.app.leaderboard.board import page
from secateurs.app.leaderboard.command import command
from secateurs.app.leaderboard.text import comma_separated, markdown
from secateurs.errors import DamageError, InputError

DENSE = dict(accuracy=0.92, macs=1000, params=100, memory=10, file_bytes=400, latency=0.010)
CONDITIONS = {"versions": "secateurs 1, torch 2", "trained on": "a CPU", "latency": "one image"}


def run(place, recipe, *, accuracy, last=None, macs=500, epochs=(0.8, 0.9), conditions=CONDITIONS):
    """The folder of a finished run."""
    place.mkdir(parents=True)
    folder = RunFolder(place)
    folder.put_recipe(recipe)
    history = [
        {"epoch": number, "train_loss": 1.0, "loss": 1.0, "accuracy": found} for number, found in enumerate(epochs, 1)
    ]
    folder.finish("recovered", {"accuracy": max(epochs, default=0.0), "seconds": 5.0, "history": history})
    after = {**DENSE, "accuracy": accuracy, "macs": macs, "params": 60, "latency": 0.005}
    stages = [{"name": "trained", "seconds": 1.0}, {"name": "recovered", "seconds": 5.0, "history": history}]
    told = {"before": DENSE, "after": after, "stages": stages, "conditions": conditions, "last": last}
    content = json.dumps(told).encode()
    folder.put({REPORT: content})
    folder.finish("measured", {"report": hashlib.sha256(content).hexdigest()})
    return place


def tables(*places):
    return standings(read_records(places)[0])


def test_seeds_of_one_recipe_are_one_line_with_their_spread(tmp_path):
    for seed, accuracy in enumerate((0.90, 0.91, 0.92)):
        recipe = Recipe(method="l2", macs=0.5, seed=seed, threads=seed, data=f"cifar10:{tmp_path}")
        run(tmp_path / str(seed), recipe, accuracy=accuracy, last=accuracy - 0.01)

    (table,) = tables(tmp_path)
    (entry,) = table.entries
    assert (str(entry.picked), str(entry.last), entry.seeds) == ("91.00 ± 1.00", "90.00 ± 1.00", (0, 1, 2))
    assert "cifar10" in table.title
    assert str(tmp_path) not in markdown([table])


def test_recipes_that_differ_are_different_lines(tmp_path):
    """What tells apart those of one name is in the name; the network's file and the machine never are."""
    run(tmp_path / "a", Recipe(method="l2", macs=0.5, threads=1), accuracy=0.9)
    run(tmp_path / "b", Recipe(method="l2", macs=0.5, lr=0.1, weights="w.safetensors"), accuracy=0.8)
    run(tmp_path / "c", Recipe(method="l2", macs=0.4), accuracy=0.7)

    assert [entry.name for entry in tables(tmp_path)[0].entries] == ["l2 (lr 0.02)", "l2 (lr 0.1)", "l2"]


def test_the_picked_epoch_is_that_of_the_validation_and_the_last_is_not_made_up(tmp_path):
    """A record without the last epoch's accuracy has it only where the last epoch is the picked one."""
    early = run(tmp_path / "early", Recipe(method="l2", macs=0.5), accuracy=0.9, epochs=(0.9, 0.8))
    late = run(tmp_path / "late", Recipe(method="l2", macs=0.4), accuracy=0.9, epochs=(0.8, 0.9))
    told = run(tmp_path / "told", Recipe(method="l2", macs=0.3), accuracy=0.9, last=0.7, epochs=(0.9, 0.8))

    found = {record.folder: (record.picked, record.last) for record in read_records([tmp_path])[0]}
    assert found == {early: (1, None), late: (2, 0.9), told: (1, 0.7)}
    assert "not recorded" in markdown(tables(early))


def test_controls_stand_in_every_table_also_those_that_were_not_run(tmp_path):
    run(tmp_path / "method", Recipe(method="taylor", macs=0.5), accuracy=0.9)
    run(tmp_path / "dense", Recipe(method="taylor", macs=0.5, control="dense"), accuracy=0.93, macs=1000)
    run(tmp_path / "random", Recipe(method="random", macs=0.5), accuracy=0.8)
    run(tmp_path / "l2", Recipe(method="magnitude", options={"p": 2}, macs=0.5), accuracy=0.8)

    (table,) = tables(tmp_path)
    assert table.missing == ("scratch",)
    for text in (markdown([table]), page([table])):
        assert "scratch (control)" in text
        assert "dense, continued" in text
        assert text.count("not run") == 9


def test_runs_in_a_file_make_the_tables_that_their_folders_make(tmp_path):
    """Also together with further folders; a run that stands in both counts once, and no folder is told."""
    for seed in (0, 1):
        recipe = Recipe(method="taylor", macs=0.5, seed=seed, data=f"cifar10:{tmp_path}", epochs=2)
        run(tmp_path / "runs" / str(seed), recipe, accuracy=0.9 + seed / 100, last=0.8)
    file = tmp_path / "committed.json"
    file.write_text(written(read_records([tmp_path / "runs" / "0"])[0]))

    alone, both = tables(file), tables(file, tmp_path / "runs")
    assert markdown(alone) == markdown(tables(tmp_path / "runs" / "0"))
    assert markdown(both) == markdown(tables(tmp_path / "runs"))
    assert both[0].entries[0].first.epochs == "2"
    assert str(tmp_path) not in file.read_text()
    assert [record.report for record in read_committed(tmp_path)] == [
        record.report for record in read_records([file])[0]
    ]


def test_a_file_of_runs_that_was_cut_off_is_refused(tmp_path):
    run(tmp_path / "runs", Recipe(method="taylor", macs=0.5), accuracy=0.9)
    whole = written(read_records([tmp_path / "runs"])[0])
    file = tmp_path / "committed.json"
    for broken in (whole[:-20], whole.replace("runs 1", "runs 2"), whole.replace('"latency"', '"late"')):
        file.write_text(broken)
        with pytest.raises(DamageError, match="is no file of runs"):
            read_records([file])


def test_seeds_of_a_control_are_one_line_though_each_is_as_large_as_its_own_run(tmp_path):
    for seed in (0, 1):
        like = tmp_path / f"taylor-macs0.5-seed{seed}"
        recipe = Recipe(method="taylor", macs=0.5, seed=seed, control="scratch", like=like)
        run(tmp_path / "runs" / str(seed), recipe, accuracy=0.9)

    (entry,) = tables(tmp_path / "runs")[0].entries
    assert entry.seeds == (0, 1)
    assert entry.first.name == "same network from scratch (as large as taylor-macs0.5)"


def test_the_command_writes_what_is_asked_for_under_its_name(tmp_path, capsys):
    run(tmp_path / "runs", Recipe(method="taylor", macs=0.5), accuracy=0.9)
    command = ["leaderboard", str(tmp_path / "runs"), "--out", str(tmp_path), "--name", "half", "--title", "At half"]

    assert main([*command, "--formats", "md", "json"]) == 0
    assert {file.name for file in tmp_path.glob("half.*")} == {"half.md", "half.json"}
    assert (tmp_path / "half.md").read_text().startswith("# At half\n")
    assert main([*command, "--formats", "pdf"]) == 2
    assert "md" in capsys.readouterr().err


def test_a_dense_network_that_was_never_trained_has_no_accuracy(tmp_path):
    run(tmp_path / "run", Recipe(method="sfp", macs=0.5, train_epochs=0), accuracy=0.9)

    assert tables(tmp_path)[0].entries[0].dense is None


def test_the_csv_has_every_run_and_reads_back(tmp_path):
    for seed in (0, 1):
        run(tmp_path / str(seed), Recipe(method="taylor", macs=0.5, seed=seed), accuracy=0.9 + seed / 100)

    lines = list(csv.DictReader(io.StringIO(comma_separated(tables(tmp_path)))))
    assert [(line["seed"], float(line["pruned accuracy"]), line["pruned macs"]) for line in lines] == [
        ("0", 0.9, "500"),
        ("1", 0.91, "500"),
    ]
    assert lines[0]["command"] == "secateurs prune --method taylor --macs 0.5 --out FOLDER"


def test_the_page_needs_no_other_file_and_shows_names_as_they_are(tmp_path):
    conditions = {**CONDITIONS, "trained on": "<script>alert(1)</script> & co"}
    run(tmp_path / "run", Recipe(method="taylor", macs=0.5), accuracy=0.9, conditions=conditions)

    tags = set()

    class Found(HTMLParser):
        def handle_starttag(self, tag, attrs):
            tags.add(tag)
            assert not {"src", "href"} & {name for name, _ in attrs}

    text = page(tables(tmp_path))
    Found().feed(text)
    assert {"table", "svg", "circle"} <= tags
    assert "script" not in tags
    assert "&lt;script&gt;" in text


def test_unfinished_runs_are_counted_and_damaged_ones_refused(tmp_path):
    place = run(tmp_path / "run", Recipe(method="taylor", macs=0.5), accuracy=0.9)
    RunFolder(tmp_path / "begun").put_recipe(Recipe(macs=0.5))
    records, unfinished = read_records([tmp_path])
    assert ([record.folder for record in records], unfinished) == ([place], [tmp_path / "begun"])

    report = json.loads((place / REPORT).read_text())
    report["after"]["accuracy"] = 0.99
    (place / REPORT).write_text(json.dumps(report))
    with pytest.raises(DamageError, match="hash"):
        read_records([tmp_path])
    with pytest.raises(InputError, match="holds no run"):
        read_records([place / "stages"])


def test_a_command_holds_what_differs_and_no_folders():
    recipe = Recipe(
        model="/home/me/net.py:net", weights="/home/me/w.safetensors", method="taylor", options={"roles": ["in"]},
        macs=0.5, milestones=(1, 2), schedule="multi-step", nesterov=False, data="imagefolder:/home/me/data",
    )  # fmt: skip

    assert command(recipe.as_keys(), seed="0,1") == (
        "secateurs prune --model net.py:net --weights w.safetensors --data imagefolder:FOLDER --method taylor "
        "--method.roles '[in]' --macs 0.5 --schedule multi-step --milestones '[1,2]' --nesterov false --seed 0,1 "
        "--out FOLDER"
    )
