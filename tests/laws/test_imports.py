"""Imports point one way."""

import ast
import re
import sys
import tomllib
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src" / "secateurs"
LAYERS = (
    "errors < types < version < notebook < registry < network < running < graph < evidence < criteria < allocate"
    " < surgery < recover < session < methods < store < deploy < integrations < app"
)
ORDER = LAYERS.split(" < ")


def imported(tree, package):
    """Full names of everything that a file of `package` (a tuple of names) imports, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *filter(None, [node.module])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def allowed(here, there):
    """Whether module `here` may import module `there`, both named by their first part below the package.

    Glue (`secateurs` itself, `prune.py`, `testing.py`) may import every layer below the application; only what uses
    the library imports glue. `python -m secateurs` is the application. The registry knows names only, and loads what
    they stand for when it is asked, so every layer may ask it.
    """
    glue, app = ORDER.index("integrations"), ORDER.index("app")
    places = {"__main__": app, **{name: place for place, name in enumerate(ORDER)}}
    return places.get(there, glue) <= places.get(here, glue)


def against_order(text, file):
    """Imports of `file` (relative to the package) that point against the order."""
    here = file.parts[0].removesuffix(".py")
    for name in imported(ast.parse(text), ("secateurs", *file.parts[:-1])):
        root, *below = name.split(".")
        if root == "secateurs" and not allowed(here, below[0] if below else ""):
            yield f"{file} imports {name}"


def test_imports_point_one_way():
    """A package imports itself and what stands before it; nothing in the core imports the glue."""
    files = sorted(SOURCE.rglob("*.py"))
    offenders = [line for path in files for line in against_order(path.read_text("utf-8"), path.relative_to(SOURCE))]

    assert files
    assert not offenders, "\n".join([LAYERS, *offenders])


def brought_along(name):
    """Top-level packages that importing module `name` of the library imports, and its own modules, by their source."""
    seen, packages, waiting = set(), set(), [tuple(name.split("."))]
    while waiting:
        module = waiting.pop()
        base = SOURCE.joinpath(*module[1:])
        file = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
        if module in seen or not file.exists():
            continue
        seen.add(module)
        waiting.extend(module[:end] for end in range(1, len(module)))
        body = ast.parse(file.read_text("utf-8")).body
        for node in [n for n in body if isinstance(n, ast.Import | ast.ImportFrom)]:  # not `if TYPE_CHECKING`
            for full in imported(node, module if base.is_dir() else module[:-1]):
                packages.add(full.split(".")[0])
                waiting += [p for p in [tuple(full.split(".")), tuple(full.split(".")[:-1])] if p[:1] == ("secateurs",)]
    return packages - set(sys.stdlib_module_names), seen


CALLED = {
    "PIL": "pillow",
    "yaml": "pyyaml",
    "sklearn": "scikit-learn",
    "huggingface_hub": "huggingface-hub",
    "ray": "ray",
}
"""Packages whose modules have other names."""


def test_every_package_that_is_imported_is_declared():
    """Of the core or of an extra; what comes along with another package today may not come tomorrow."""
    project = tomllib.loads((SOURCE.parents[1] / "pyproject.toml").read_text("utf-8"))["project"]
    lines = [*project["dependencies"], *(line for some in project["optional-dependencies"].values() for line in some)]
    declared = {re.match(r"[\w-]+", line)[0].lower() for line in lines}
    files = sorted(SOURCE.rglob("*.py"))
    found = {
        full.split(".")[0]: path.name for path in files for full in imported(ast.parse(path.read_text("utf-8")), ())
    }
    others = found.keys() - set(sys.stdlib_module_names) - {"secateurs"}

    assert {"torch", "yaml", "typing_extensions"} <= others
    assert {f"{name} in {found[name]}" for name in others if CALLED.get(name, name).lower() not in declared} == set()


def test_import_is_light():
    """`import secateurs` loads nothing but itself, a verb what it always needs; SciPy and every extra wait for use."""
    packages, modules = brought_along("secateurs")

    assert (packages, modules) == ({"secateurs"}, {("secateurs",), ("secateurs", "version")})
    for verb in ("prune", "store", "session"):
        packages, modules = brought_along(f"secateurs.{verb}")
        assert ("secateurs", "graph", "labels") in modules
        assert packages <= {"secateurs", "torch", "numpy", "safetensors", "typing_extensions"}
