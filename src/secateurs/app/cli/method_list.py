"""The methods and criteria that --method takes, by kind, each with a sentence."""

from textwrap import wrap

from secateurs.errors import RecipeError
from secateurs.registry import Kind, entries, kebab, kind_of, summary

KINDS: dict[Kind, str] = {
    "criterion": "criteria, which rank units; a budget says how many go",
    "one-shot": "methods that choose once; a budget, or the method itself, says how many go",
    "training": "methods that prune while the network trains",
}
"""Headings of the list of methods, in order."""


def list_methods() -> str:
    """List all values of --method, each with the first sentence of its docstring."""
    spellings: dict[str, list[str]] = {}
    known = entries()
    for name, entry in known.items():
        spellings.setdefault(entry.name, []).append(name)
    lines: dict[Kind | None, list[str]] = {kind: [] for kind in (*KINDS, None)}
    for name in sorted(spellings):
        others = sorted(one for one in spellings[name] if one != name)
        called = name + (f" ({', '.join(others)})" if others else "")
        try:
            value = known[name].make()
        except RecipeError as broken:
            lines[None].append(f"  {broken}")
        else:
            told = summary(value) if kebab(type(value).__name__) == name else f"{value!r}: {summary(value)}"
            text = [f"  {called}", *wrap(told, 106, initial_indent=" " * 6, subsequent_indent=" " * 6)]
            lines[kind_of(value)].append("\n".join(text))
    parts = [f"{heading}:\n" + "\n".join(lines[kind]) for kind, heading in KINDS.items()]
    parts += ["cannot be used:\n" + "\n".join(lines[None])] if lines[None] else []
    return "\n\n".join(parts)
