"""The public face: how functions and values are called, and that a wrong choice is refused by name."""

import ast
import dataclasses
import enum
import importlib
import inspect
import pkgutil
import re
import sys
import textwrap
from typing import Literal, get_args, get_origin, get_type_hints

import pytest

import secateurs
from secateurs.errors import InputError

POSITIONAL = {
    "graph": 0, "plan": 0, "model": 1, "small": 1, "dense": 2, "folder": 0, "repo": 0, "example_inputs": 3, "data": 3,
    "optimizer": 3, "path": 4, "directory": 4, "name": 0, "kind": 0, "thing": 0,
}  # fmt: skip
"""What a public function takes by position, in this order; what is chosen (a method, a budget, a number) has a name."""

MADE_BY_THE_LIBRARY = {
    "Event", "Exported", "Graph", "Group", "GroupDeviation", "Measurement", "Plan", "Result", "Site", "Slice",
    "Weights",
}  # fmt: skip
"""Records that functions return and nobody writes."""


def packages():
    """The packages of the library that name their public things, but for the application."""
    found = [info.name for info in pkgutil.iter_modules(secateurs.__path__, "secateurs.") if info.ispkg]
    modules = [importlib.import_module(name) for name in ["secateurs", *found] if name != "secateurs.app"]
    return [module for module in modules if hasattr(module, "__all__")]


def public():
    """Every public function and class, under the first name that it has."""
    found = {}
    for module in packages():
        for name in module.__all__:
            value = getattr(module, name)
            if (inspect.isfunction(value) or inspect.isclass(value)) and value not in found.values():
                found[f"{module.__name__}.{name}"] = value
    return found


PUBLIC = public()
TOP = {name: value for name, value in PUBLIC.items() if name.count(".") == 1}
RECORDS = {name: value for name, value in PUBLIC.items() if dataclasses.is_dataclass(value)}


def by_position(value):
    """The parameters that may be given by position."""
    parameters = inspect.signature(value).parameters.values()
    return [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


@pytest.mark.parametrize("name", [name for name, value in TOP.items() if inspect.isfunction(value)])
def test_a_function_takes_the_model_then_its_inputs(name):
    """The objects that it works on go by position, at most three and in one order; choices go by keyword."""
    given = [p.name for p in by_position(TOP[name])]

    assert set(given) <= set(POSITIONAL)
    assert len(given) <= 3
    assert name == "secateurs.save" or given == sorted(given, key=POSITIONAL.__getitem__)


@pytest.mark.parametrize("name", [name for name in RECORDS if name.rpartition(".")[2] not in MADE_BY_THE_LIBRARY])
def test_settings_have_names(name):
    """Beyond the first parameter, one that has a default goes by keyword: no list of numbers has to be counted."""
    assert [p.name for p in by_position(RECORDS[name])[1:] if p.default is not p.empty] == []


def choices():
    """Every setting of a public value that is one of several strings."""
    for name, kind in RECORDS.items():
        if any(p.default is p.empty for p in inspect.signature(kind).parameters.values()):
            continue
        hints = get_type_hints(kind)
        yield from ((name, f.name) for f in dataclasses.fields(kind) if get_origin(hints[f.name]) is Literal)


@pytest.mark.parametrize(("name", "setting"), list(choices()))
def test_a_choice_that_does_not_exist_is_refused_with_those_that_do(name, setting):
    """When the value is made, with what was given and what could have been."""
    kind = RECORDS[name]
    with pytest.raises(InputError, match="nonsense") as refused:
        kind(**{setting: "nonsense"})

    assert all(str(one) in str(refused.value) for one in get_args(get_type_hints(kind)[setting]))


def test_choices_are_strings():
    """One way to write a choice: no enumeration beside the literals."""
    assert [name for name, value in PUBLIC.items() if inspect.isclass(value) and issubclass(value, enum.Enum)] == []


UNDERSTOOD = {"self", "cls", "model", "graph", "plan", "args", "kwargs"}
"""Arguments whose type says all; every other one is named in the documentation."""

RIDDLES = {"What", "Where", "Which", "Who", "Whose", "Whether", "How", "When", "Why"}
"""A title is a noun or a command: a clause that begins with one of these has no subject."""


def said_of(value):
    """The documentation of a value, and of the classes of its module that it shares settings with."""
    kinds = [value]
    if inspect.isclass(value):
        shared = vars(sys.modules[value.__module__]).values()
        kinds += [k for k in shared if inspect.isclass(k) and set(names_of(k)) & set(names_of(value))]
        kinds += [value.__init__] if inspect.isfunction(value.__init__) else []
    return "\n".join(
        filter(None, (vars(kind).get("__doc__") if inspect.isclass(kind) else kind.__doc__ for kind in kinds))
    )


def names_of(value):
    """The names of the parameters of a function or class."""
    try:
        return [name for name in inspect.signature(value).parameters if not name.startswith("_")]
    except (TypeError, ValueError):
        return []


@pytest.mark.parametrize("name", PUBLIC)
def test_everything_public_begins_with_a_sentence(name):
    """A noun phrase or a command, with a full stop, in one line."""
    first = (vars(PUBLIC[name]) if inspect.isclass(PUBLIC[name]) else {"__doc__": PUBLIC[name].__doc__})["__doc__"]

    assert re.match(r"[A-Z`½].*[.:]\n?", first)
    assert first.split()[0] not in RIDDLES


@pytest.mark.parametrize("name", [name for name, value in PUBLIC.items() if not getattr(value, "_is_protocol", False)])
def test_every_argument_is_explained(name):
    """By its name, in the documentation of the function or class."""
    told = said_of(PUBLIC[name])

    assert [p for p in names_of(PUBLIC[name]) if p not in UNDERSTOOD and not re.search(rf"\b{p}\b", told)] == []


def raised(source):
    """The names of the library's errors that a function raises itself, not through another function."""
    tree = ast.parse(textwrap.dedent(source))
    calls = [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)]
    return {ast.unparse(call.func) for call in calls} & {n for n in vars(secateurs.errors) if n.endswith("Error")}


def functions(value):
    """A public function; or the constructor and the public methods of a class, by name."""
    if inspect.isfunction(value):
        return {"": value}
    plain = {name: getattr(member, "__func__", getattr(member, "fget", member)) for name, member in vars(value).items()}
    made = ("__init__", "__post_init__", "__call__")
    return {n: f for n, f in plain.items() if inspect.isfunction(f) and (n in made or not n.startswith("_"))}


def errors():
    """Every public function and method that raises an error of the library itself: its name, its text, the error."""
    for name, value in PUBLIC.items():
        for member, function in functions(value).items():
            if function.__code__.co_filename.startswith("<"):  # made by dataclasses
                continue
            text = f"{value.__doc__ if inspect.isclass(value) else ''}{function.__doc__}"
            source = inspect.getsource(inspect.unwrap(function))
            yield from ((f"{name}.{member}".rstrip("."), text, error) for error in raised(source))


def test_every_error_is_explained():
    """What a public function, method or constructor raises itself is in its documentation."""
    found = list(errors())

    assert len(found) > 50
    assert [f"{name} raises {error}" for name, text, error in found if error not in text] == []
