"""A recipe without the folders of the machine that it ran on, so that runs of two machines can be compared."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

PATHS = ("weights", "model", "plan", "method")
"""Keys of a recipe that may be a file."""


def portable(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Files by their names, data by their kind, and the run that a control is as large as by its name without the seed.

    >>> portable({"data": "cifar10:/home/me/data", "weights": "/home/me/w.safetensors", "method": {"name": "l2"}})
    {'data': 'cifar10', 'weights': 'w.safetensors', 'method': {'name': 'l2'}}
    >>> portable({"like": "/home/me/runs/sfp-r56/seed0"}), portable({"like": "runs/ccp-macs0.5-1"})
    ({'like': 'sfp-r56'}, {'like': 'ccp-macs0.5'})
    """
    found = dict(keys)
    kind, colon, place = str(found.get("data", "")).partition(":")
    if colon and not place.isdigit():
        found["data"] = kind
    if found.get("like"):
        found["like"] = _without_seed(PurePath(str(found["like"])))
    for key in PATHS:
        value = found.get(key)
        if isinstance(value, str) and "/" in value:
            found[key] = PurePath(value).name
        elif isinstance(value, Mapping) and "/" in str(value["name"]):
            found[key] = {**value, "name": PurePath(str(value["name"])).name}
    return found


def _without_seed(folder: PurePath) -> str:
    name = re.sub(r"(^|[-_])(seed)?\d+$", "", folder.name)
    return name or folder.parent.name or folder.name
