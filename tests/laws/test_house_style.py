"""The sizes and names that keep each file readable at one sitting."""

import ast
import io
import tokenize
from collections import Counter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "secateurs"
FILE_LINES = 300
FUNCTION_LINES = 40
BANNED_NAMES = {"util", "utils", "helper", "helpers", "manager", "managers"}
CLAUSES = {"What", "Where", "Which", "Who", "Whose", "Whether", "How", "When", "Why"}
NOT_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def lines_of_code(text):
    """Numbers of the lines that hold code: not blank, not only a comment."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {line for t in tokens if t.type not in NOT_CODE for line in range(t.start[0], t.end[0] + 1)}


def docstring_lines(function):
    """Numbers of the lines of a function's docstring."""
    if ast.get_docstring(function) is None:
        return set()
    return set(range(function.body[0].lineno, function.body[0].end_lineno + 1))


def long_files(text):
    """A file that is too long."""
    if (lines := len(text.splitlines())) > FILE_LINES:
        yield 1, f"{lines} lines, more than {FILE_LINES}"


def long_functions(text):
    """Functions with too many lines of code, signature included, docstring, comments and blank lines not."""
    code = lines_of_code(text)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            span = set(range(node.lineno, node.end_lineno + 1))
            if (lines := len(span & code - docstring_lines(node))) > FUNCTION_LINES:
                yield node.lineno, f"{node.name} has {lines} lines of code, more than {FUNCTION_LINES}"


def swallowed_errors(text):
    """Handlers that catch everything by saying nothing, or catch `Exception` and do nothing."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ExceptHandler):
            broad = isinstance(node.type, ast.Name) and node.type.id in {"Exception", "BaseException"}
            silent = all(isinstance(line, ast.Pass | ast.Continue) for line in node.body)
            if node.type is None or (broad and silent):
                yield node.lineno, "catches every error without a word"


def riddles(text):
    """Documentation that begins with a clause instead of a noun or a command."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            first = node.value.value.split(maxsplit=1)
            if first and first[0] in CLAUSES:
                yield node.lineno, f"begins with {first[0]!r}: say what it is, or what it does"


@pytest.mark.parametrize("rule", [long_files, long_functions, swallowed_errors, riddles])
def test_every_file_keeps(rule):
    """Files are short, functions are short, no error is swallowed."""
    files = sorted(SOURCE.rglob("*.py"))
    found = [
        f"{path.relative_to(SOURCE)}:{line} {what}" for path in files for line, what in rule(path.read_text("utf-8"))
    ]

    assert files
    assert not found, "\n".join(["", *found])


def test_no_file_name_is_used_twice():
    """A name finds one file: only `method.py` and `driver.py`, one pair a paper, stand in many folders."""
    names = Counter(path.name for path in SOURCE.rglob("*.py"))
    for shared in ("__init__.py", "method.py", "driver.py"):
        del names[shared]

    assert [name for name, count in names.items() if count > 1] == []
    assert {path.parts[-3] for path in SOURCE.rglob("driver.py")} == {"methods"}


def test_no_paper_imports_another():
    """What two papers share stands below them, in `session`, `criteria` or `evidence`."""
    folders = [path for path in (SOURCE / "methods").iterdir() if path.is_dir() and path.name != "__pycache__"]
    found = [
        f"{file.relative_to(SOURCE)} imports secateurs.methods.{other.name}"
        for folder in folders
        for file in folder.rglob("*.py")
        for other in folders
        if other != folder and f"secateurs.methods.{other.name}" in file.read_text("utf-8")
    ]

    assert len(folders) > 5
    assert not found, "\n".join(["", *found])


def test_modules_are_named_after_what_they_do():
    """A name that would fit any module says nothing about this one."""
    named = [
        str(path.relative_to(SOURCE)) for path in SOURCE.rglob("*") if path.stem.strip("_").lower() in BANNED_NAMES
    ]

    assert not named, "\n".join(["", *named])
