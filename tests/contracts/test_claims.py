"""The table of what is known of each method: complete, held by tests that there are, and up to date."""

import ast
import importlib.util
from pathlib import Path

import pytest

from secateurs import registry

ORACLES = Path(__file__).parents[1] / "oracles"


@pytest.fixture(scope="module")
def claims():
    spec = importlib.util.spec_from_file_location("claims", ORACLES / "claims.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_method_has_claims(claims):
    """All methods that the registry has, and criteria of it that are papers' own."""

    def called(*kinds):
        return {type(registry.make(name)).__name__ for kind in kinds for name in registry.names(kind)}

    assert called("one-shot", "training") <= set(claims.read()) <= called("one-shot", "training", "criterion")


def test_every_claim_is_held_by_a_test(claims):
    """One that there is; what differs has a reason."""
    for method, rows in claims.read().items():
        for row in rows:
            file, _, name = row["test"].partition("::")
            tree = ast.parse((ORACLES / file).read_text(encoding="utf-8"))
            there = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}

            assert name in there, row
            assert row["is"] in claims.MARKS, row
            assert row["is"] == "known" or row.get("why"), (method, row)


def test_the_page_is_up_to_date(claims):
    """Else: python tests/oracles/claims.py."""
    assert claims.PAGE.read_text(encoding="utf-8") == claims.page()
