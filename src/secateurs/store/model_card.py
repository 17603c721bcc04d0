"""Write a model card for the Hub from the report of a run and the plan."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from secateurs.errors import DamageError, InputError
from secateurs.store.files import read_file
from secateurs.store.save import load_plan

LARGEST = 2**26
"""Largest size in bytes of a report or a recipe; real ones have some thousand."""

MOST_LAYERS = 40
"""Largest number of narrower tensors that are listed; plan.json has all."""

FIGURES = {
    "accuracy": "test accuracy",
    "macs": "MACs",
    "params": "parameters",
    "memory": "activation memory, bytes",
    "file_bytes": "file, bytes",
    "latency": "latency, ms",
}

PRIVATE = ("weights", "data", "model")
"""Settings of a recipe that may be paths of a machine, and are shown without folders."""

USE = """\
## Use

```python
import secateurs as sct

model = ...  # the network as it was before pruning
model = sct.pull({repo!r}, model)
```

The weights are safetensors and the plan is JSON: nothing here runs code.
"""


def model_card(folder: Path, repo: str, *, license_id: str) -> str:
    """Write the card of a saved model: licence, figures before and after, recipe, and narrower tensors.

    Figures and recipe are read from `report.json` and `recipe.yaml`, if they exist; the card has no paths of a machine.
    Raises InputError for a licence that cannot be one, DamageError for a report that cannot be read.
    """
    from huggingface_hub import ModelCardData  # of the extra `hub`

    if not (license_id and license_id.replace("-", "").replace(".", "").isalnum()):
        raise InputError(f"{license_id!r} is no licence as the Hub names them. Give its id, such as 'apache-2.0'.")
    tags = ["structured-pruning", "pruning", "pytorch"]
    head = ModelCardData(license=license_id, library_name="secateurs", tags=tags).to_yaml()
    report = _report(folder)
    title = _plain(report.get("title", f"{repo.rpartition('/')[2]}, pruned"))
    parts = [f"---\n{head}\n---", f"# {title}", *_figures(report), *_recipe(folder), *_layers(folder)]
    return "\n\n".join([*parts, USE.format(repo=repo)])


def _report(folder: Path) -> dict[str, Any]:
    path = folder / "report.json"
    if not path.exists():
        return {}
    try:
        found = json.loads(read_file(path, most=LARGEST))
        for side in ("before", "after"):
            dict(found[side])  # is there, and a mapping
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        message = f"{path} is damaged ({error}). Nothing was uploaded. Remove it, or take the original."
        raise DamageError(message) from error
    return cast("dict[str, Any]", found)


def _figures(report: Mapping[str, Any]) -> Iterator[str]:
    if not report:
        return
    rows = ["| | before | after |", "|---|---|---|"]
    for key, name in FIGURES.items():
        before, after = report["before"].get(key), report["after"].get(key)
        if isinstance(before, int | float) and isinstance(after, int | float):
            rows.append(f"| {name} | {_figure(key, before)} | {_figure(key, after)} |")
    yield "\n".join(rows)
    conditions = report.get("conditions")
    if isinstance(conditions, dict):
        yield "\n".join(f"- {_plain(k)}: {_plain(v)}" for k, v in cast("dict[str, Any]", conditions).items())


def _figure(key: str, value: float) -> str:
    """Write a figure in the unit that its row names.

    >>> _figure("accuracy", 0.9861), _figure("macs", 1210612), _figure("latency", 0.0146)
    ('98.61 %', '1,210,612', '14.60')
    """
    if key == "accuracy":
        return f"{100 * value:.2f} %"
    return f"{1e3 * value:.2f}" if key == "latency" else f"{value:,.0f}"


def _recipe(folder: Path) -> Iterator[str]:
    path = folder / "recipe.yaml"
    if not path.exists():
        return
    import yaml  # comes with huggingface_hub

    try:
        found = yaml.safe_load(read_file(path, most=LARGEST))
    except (yaml.YAMLError, RecursionError, UnicodeDecodeError) as error:
        message = f"{path} is damaged. Nothing was uploaded. Remove it, or take the original."
        raise DamageError(message) from error
    if not isinstance(found, dict):
        return
    shown = {key: _public(key, value) for key, value in cast("dict[str, Any]", found).items() if value is not None}
    yield "## Recipe\n\n```yaml\n" + yaml.safe_dump(shown, sort_keys=False).strip() + "\n```"


def _public(key: str, value: Any) -> Any:
    """Remove folders of the machine from a value.

    >>> _public("data", "imagefolder:/home/me/photos"), _public("model", "/home/me/net.py:build"), _public("macs", 0.5)
    ('imagefolder', 'net.py:build', 0.5)
    """
    if key == "data" and isinstance(value, str):
        return value.partition(":")[0]
    return value.replace("\\", "/").rpartition("/")[2] if key in PRIVATE and isinstance(value, str) else value


def _layers(folder: Path) -> Iterator[str]:
    plan = load_plan(folder)
    after = plan.signature_after()
    narrower = [(name, shape, after[name]) for name, shape in plan.signature.items() if tuple(shape) != after[name]]
    matrices = [entry for entry in narrower if len(entry[1]) > 1]
    rows = [f"| `{_plain(n)}` | {_shape(before)} | {_shape(now)} |" for n, before, now in matrices[:MOST_LAYERS]]
    if len(matrices) > MOST_LAYERS:
        rows.append(f"| and {len(matrices) - MOST_LAYERS} more in plan.json | | |")
    if rows:
        yield "\n".join(["## Plan", "", "| tensor | before | after |", "|---|---|---|", *rows])


def _shape(sizes: tuple[int, ...]) -> str:
    return "×".join(map(str, sizes))


def _plain(text: object) -> str:
    r"""Keep text on one line and in its cell.

    >>> _plain("a\nb | c")
    'a b / c'
    """
    return " ".join(str(text).replace("|", "/").replace("`", "'").split())[:300]
