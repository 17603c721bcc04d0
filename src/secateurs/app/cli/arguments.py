"""Parse a command: flags override a recipe file, which overrides a base recipe."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from enum import Enum
from pathlib import Path
from typing import Any, final

import yaml

from secateurs.app.cli.consent import check_consent
from secateurs.app.cli.flags import METHOD, method_fields, method_parser, parse_flags, parse_keys, recipe_parser
from secateurs.app.cli.method_file import is_file, method_in_file
from secateurs.app.cli.recipe import Recipe
from secateurs.errors import InputError, RecipeError, near
from secateurs.registry import make


@final
@dataclass(frozen=True)
class Invocation:
    """A recipe, which of its fields were given, the folder of the run, and whether the run goes on.

    flags: what the command line itself gave, and so agreed to.
    """

    recipe: Recipe
    given: frozenset[str]
    out: Path
    resume: bool
    flags: Mapping[str, Any]


def read(argv: Sequence[str], base: Recipe, *, out: Path | None = None, only: Sequence[str] = ()) -> Invocation:
    """Read the flags of a command; where `only` names fields, no others can be set."""
    own, common = split_flags(argv)
    flags = parse_flags(recipe_parser(base, only), common)
    file, folder, resume = flags.pop("config", None), flags.pop("out", None) or out, flags.pop("resume", False)
    if folder is None:
        raise InputError("nothing says where to write; add --out FOLDER")
    keys = read_file(file) if file else {}
    agreed = dict(flags)
    flags.pop("trust_code", None)
    if file:
        check_consent({key: value for key, value in keys.items() if key not in flags}, agreed, file)
    if flags.get("method", keys.get("method")) != keys.get("method"):
        keys.pop("options", None)
    keys |= flags
    given = frozenset[str](keys) | (frozenset({"options"}) if own else frozenset())
    return Invocation(compose(base, keys, own), given, folder, resume, agreed)


def compose(base: Recipe, keys: Mapping[str, Any], own: Sequence[str] = ()) -> Recipe:
    """Lay keys and a method's own flags over a recipe; the options of the method come out complete.

    >>> compose(Recipe(), {"method": "l2"}).options
    {'p': 2, 'roles': None}
    """
    plain = {key: _whole(tuple(value) if isinstance(value, list) else value) for key, value in keys.items()}
    name = plain.get("method", base.method)
    options = dict(plain.pop("options", base.options if name == base.method else {}))
    options |= parse_flags(method_parser(default_method(name)), own).get("method", {})
    recipe = replace(base, **plain, options=options)
    method = chosen_method(recipe)
    return replace(recipe, options={f.name: _written(getattr(method, f.name)) for f, _ in method_fields(method)})


def default_method(name: str) -> Any:
    """The method or criterion of this name, or of the class in `path.py:Class`, with its paper's settings."""
    return method_in_file(name) if is_file(name) else make(name)


def chosen_method(recipe: Recipe) -> Any:
    """The method that a recipe asks for, with its options and the run's seed."""
    method = default_method(recipe.method)
    known = [f.name for f, _ in method_fields(method)]
    for option in recipe.options:
        if option not in known:
            raise RecipeError(f"the method {recipe.method} has no option {option!r}; {near(option, known)}")
    parser = method_parser(method)
    keys = {"method": dict(recipe.options)} if recipe.options else {}
    made = parser.instantiate(parse_keys(parser, keys, recipe.method))
    given = dict(vars(made["method"])) if keys else {}
    if "seed" in {f.name for f in fields(method)}:
        given["seed"] = recipe.seed
    return replace(method, **given)


def split_flags(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Part the method's own flags, with their values, from the rest.

    >>> split_flags(["--macs", "0.5", "--method.p", "2", "--method=l2", "--method.roles=[out]"])
    (['--method.p', '2', '--method.roles=[out]'], ['--macs', '0.5', '--method=l2'])
    """
    own: list[str] = []
    common: list[str] = []
    rest = list(argv)
    while rest:
        flag = rest.pop(0)
        target = own if flag.startswith(METHOD) else common
        target.append(flag)
        if target is own and "=" not in flag and rest:
            own.append(rest.pop(0))
    return own, common


def read_file(path: Path) -> dict[str, Any]:
    """The keys of a recipe file, as the fields of `Recipe`."""
    keys = _keys(path)
    known = {f.name for f in fields(Recipe) if f.name != "options"}
    for key in keys:
        if key not in known:
            raise RecipeError(f"the recipe {path} has an unknown key {key!r}; {near(key, known)}")
    if isinstance(keys.get("protect"), str):
        keys["protect"] = [keys["protect"]]
    options: dict[str, Any] = {}
    if isinstance(keys.get("method"), dict):
        options = {_field(key): value for key, value in keys.pop("method").items()}
        if "name" not in options:
            raise RecipeError(f"the method of the recipe {path} has no name; write method: {{name: magnitude, …}}")
        keys["method"] = options.pop("name")
    read = parse_keys(recipe_parser(Recipe()), keys, f"the recipe {path}").as_dict()
    return {**read, "options": options} if options else read


def _keys(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as cause:
        raise InputError(f"the recipe {path} cannot be read ({cause.strerror}); name a YAML file") from cause
    except (yaml.YAMLError, UnicodeDecodeError) as cause:
        raise InputError(f"the recipe {path} is not YAML: {' '.join(str(cause).split())}") from cause
    if not isinstance(found, dict):
        raise InputError(f"the recipe {path} holds {type(found).__name__}, not keys with values; write, say, macs: 0.5")
    return {_field(key): value for key, value in found.items()}


def _field(key: object) -> str:
    return str(key).replace("-", "_")


def _whole(value: Any) -> Any:
    """Take 2e7 for the whole number that it is; a fraction stays one."""
    return (
        int(value) if isinstance(value, float) and math.isfinite(value) and value > 1 and value.is_integer() else value
    )


def _written(value: Any) -> Any:
    """A plain value as YAML holds it: lists for tuples, names for members of an enumeration."""
    if isinstance(value, Enum):
        return value.name
    return [_written(part) for part in value] if isinstance(value, tuple) else value
