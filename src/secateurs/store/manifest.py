"""`plan.json`: what was saved, by which versions, and how to know that it is whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, cast

import torch

from secateurs.errors import PlanError, StoreError
from secateurs.surgery.plan import Plan

FORMAT = 1


@dataclass(frozen=True)
class Manifest:
    """What `plan.json` says of a saved model.

    plan: what was removed from the dense model; dtypes: every tensor -> type; aliases: other name of a tied tensor ->
    the name it is stored under; orders: tensors that do not lie in memory in the default order of dimensions; states:
    module -> what its `get_extra_state` gave; sha256 and size are those of the weights file.
    """

    plan: Plan
    dtypes: Mapping[str, str]
    aliases: Mapping[str, str]
    orders: Mapping[str, tuple[int, ...]]
    states: Mapping[str, Any]
    sha256: str
    size: int

    def to_bytes(self) -> bytes:
        """Write the manifest, sealed with the hash of its own contents."""
        body: dict[str, Any] = {
            "secateurs": {"format": FORMAT, "version": library_version(), "torch": str(torch.__version__)},
            "weights": {"sha256": self.sha256, "size": self.size},
            "dtypes": dict(self.dtypes),
            "aliases": dict(self.aliases),
            "orders": {name: list(order) for name, order in self.orders.items()},
            "states": dict(self.states),
            "plan": json.loads(self.plan.to_json()),
        }
        return json.dumps({**body, "seal": _seal(body)}, indent=1).encode()

    def check(self, weights: bytes) -> None:
        """Refuse a weights file that is not the one that was saved."""
        if len(weights) != self.size or hashlib.sha256(weights).hexdigest() != self.sha256:
            fact = f"has {len(weights)} of {self.size} bytes" if len(weights) != self.size else "was changed"
            message = (
                f"the weights file {fact}: it is not the one that was saved with this plan. "
                "Nothing was loaded. Copy the directory again, or save the model again."
            )
            raise StoreError(message)


def library_version() -> str:
    """Give the installed version, or say that the source is run without being installed."""
    try:
        return version("secateurs")
    except PackageNotFoundError:
        return "not installed"


def read_manifest(content: bytes) -> Manifest:
    """Read `plan.json`; StoreError says why a file is not one that can be trusted."""
    try:
        body = cast("dict[str, Any]", json.loads(content))
        wrote = body["secateurs"]
    except (ValueError, KeyError, TypeError) as error:
        message = f"plan.json was not written by secateurs.save ({error!r}). Nothing was loaded. Check the directory."
        raise StoreError(message) from error
    if wrote.get("format") != FORMAT:
        message = (
            f"plan.json has format {wrote.get('format')!r}, written by secateurs {wrote.get('version')}; "
            f"this is {library_version()}, which reads format {FORMAT}. Install the version that wrote it."
        )
        raise StoreError(message)
    if body.pop("seal", None) != _seal(body):
        message = "plan.json was changed after it was saved. Nothing was loaded. Take the original, or save again."
        raise StoreError(message)
    return _manifest(body)


def _manifest(body: Mapping[str, Any]) -> Manifest:
    try:
        return Manifest(
            plan=Plan.from_json(json.dumps(body["plan"])),
            dtypes=body["dtypes"],
            aliases=body["aliases"],
            orders={name: tuple(order) for name, order in body["orders"].items()},
            states=body["states"],
            sha256=body["weights"]["sha256"],
            size=body["weights"]["size"],
        )
    except (KeyError, TypeError, AttributeError, PlanError) as error:
        message = f"plan.json is damaged: {error!r}. Nothing was loaded. Take the original, or save again."
        raise StoreError(message) from error


def _seal(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
