"""What waits for no heavy import: the modules that come along are counted, not the seconds."""

import json
import subprocess
import sys

QUICK = (
    ["--version"],
    ["--help"],
    ["nosuch"],
    ["inspect", "--help"],
    ["inspect", "--nosuch"],
    ["compare", "--help"],
    ["export", "--help"],
    ["prune", "--macs", "half"],
    ["prune", "--nosuch"],
)
HEAVY = {
    "torch",
    "numpy",
    "scipy",
    "lightning",
    "torchvision",
    "sklearn",
    "matplotlib",
    "safetensors",
    "rich",
    "jinja2",
}


def brought(code):
    """The packages in `sys.modules` after each word list of `code` was run, one process for all."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    return json.loads(done.stdout.splitlines()[-1])


def test_help_versions_and_refusals_import_nothing_heavy():
    """Of PyTorch and of every package that works, none; of everything else less than a thousand modules."""
    found = brought(
        "import contextlib, io, json, sys\n"
        "from secateurs.app.cli import main\n"
        "found = {}\n"
        f"for words in {QUICK!r}:\n"
        "    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):\n"
        "        code = main(words)\n"
        "    found[' '.join(words)] = [code, len(sys.modules), sorted({m.partition('.')[0] for m in sys.modules})]\n"
        "print(json.dumps(found))\n"
    )

    assert found.keys() == {" ".join(words) for words in QUICK}
    for words, (code, count, packages) in found.items():
        assert code == (2 if "nosuch" in words or "half" in words else 0), words
        assert set(packages) & HEAVY == set(), words
        assert count < 1000, words


def test_the_package_imports_what_is_asked_for():
    """And its functions stay functions when the modules of the same names are imported."""
    found = brought(
        "import json, sys\n"
        "import secateurs as sct\n"
        "light = 'torch' in sys.modules\n"
        "import secateurs.recover.layers, secateurs.prune\n"
        "from secateurs.prune import Result\n"
        "pairs = [(getattr(sct, n), getattr(sys.modules[f'secateurs.{n}'], n)) for n in ('prune', 'recover')]\n"
        "same = all(a is b for a, b in pairs)\n"
        "print(json.dumps([light, same, sct.Result is Result, callable(sct.prune)]))\n"
    )

    assert found == [False, True, True, True]
