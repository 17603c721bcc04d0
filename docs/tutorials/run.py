"""Execute the notebooks and keep what they print: python docs/tutorials/run.py [NAME.ipynb ...]"""

import ast
import contextlib
import io
import json
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent


def cells(notebook):
    """The code cells of a notebook."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def executed(code, names):
    """Run one cell; return what it prints, and its last expression's value, as a notebook shows it."""
    tree = ast.parse(code)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, "cell", "exec"), names)
        if last is not None and (value := eval(compile(ast.Expression(last.value), "cell", "eval"), names)) is not None:
            print(value)
    return printed.getvalue()


def run(path):
    """Execute a notebook from top to bottom in an empty folder; return it with its outputs."""
    notebook = json.loads(path.read_text("utf-8"))
    names = {"__name__": "__main__"}
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for number, cell in enumerate(cells(notebook), start=1):
            text = executed("".join(cell["source"]), names)
            lines = text.splitlines(keepends=True)
            cell["outputs"] = [{"name": "stdout", "output_type": "stream", "text": lines}] if lines else []
            cell["execution_count"] = number
    return notebook


if __name__ == "__main__":
    for path in [HERE / name for name in sys.argv[1:]] or sorted(HERE.glob("*.ipynb")):
        path.write_text(json.dumps(run(path), indent=1, ensure_ascii=False) + "\n", "utf-8")
        print(path.name)
