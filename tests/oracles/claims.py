"""Make docs/methods_table.md from claims.yaml: `python tests/oracles/claims.py`."""

from pathlib import Path

import yaml

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "methods_table.md"
MARKS = ("known", "deviates", "ours", "unknown")
HEAD = """\
# What is known of each method, what deviates, and why

Made from `tests/oracles/claims.yaml` by `python tests/oracles/claims.py`; do not edit. Every row is held by the test
that it names, against the authors' code or formula written out on its own.

*known*: equal to the authors' code or formula. *deviates*: the default differs, and the reason says how to have theirs.
*ours*: no source has it. *unknown*: no source could be had.

| method | what | | why | test in `tests/oracles` |
|---|---|---|---|---|
"""


def read() -> dict[str, list[dict[str, str]]]:
    """The claims, method by method."""
    return yaml.safe_load((HERE / "claims.yaml").read_text(encoding="utf-8"))


def page() -> str:
    """The table."""
    rows = [
        f"| `{method}` | {claim['what']} | {claim['is']} | {claim.get('why', '')} | `{claim['test']}` |"
        for method, claims in read().items()
        for claim in claims
    ]
    return HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
