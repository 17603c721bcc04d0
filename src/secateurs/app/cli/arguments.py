"""The arguments of a run: flags override a recipe file, which overrides a base recipe."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import yaml
from jsonargparse import ArgumentParser

from secateurs.app.cli.consent import check_consent
from secateurs.app.cli.flags import add_fields, new_parser, parse_keys, setting
from secateurs.app.cli.method_file import is_file, method_in_file
from secateurs.app.cli.method_list import list_methods
from secateurs.app.cli.method_options import add_method, options_of, with_options
from secateurs.app.cli.recipe import Recipe
from secateurs.app.cli.where import GROUPS
from secateurs.errors import InputError, RecipeError, near
from secateurs.registry import make, summary


@dataclass(frozen=True)
class RunFlags:
    """Flags of a run that are not part of its recipe."""

    out: Path | None = setting("folder of the run; a new one", "FOLDER", default=None, group="run")
    config: Path | None = setting("recipe file, in YAML; flags win over it", "FILE", default=None, group="run")
    resume: bool = setting("go on where an earlier start in --out was interrupted", default=False, group="run")
    trust_code: bool = setting(
        "run Python files that a recipe or a run folder names, unread by you", default=False, group="run"
    )
    allow_pth: bool = setting(
        "read --weights from a .pth file: its tensors, nothing else (weights_only=True)", default=False, group="run"
    )


@dataclass(frozen=True)
class Invocation:
    """A run as requested: its recipe, the fields that were given, its folder, and whether it resumes.

    flags: fields given on the command line itself, which are thereby trusted.
    """

    recipe: Recipe
    given: frozenset[str]
    out: Path
    resume: bool
    flags: Mapping[str, Any]

    BASE: ClassVar[Recipe] = Recipe()
    FOLDER: ClassVar[Path | None] = None
    ONLY: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def parser(cls, argv: Sequence[str]) -> ArgumentParser:
        """Make the parser of a run's flags, with those of the method that `argv` or its recipe file names."""
        parser = new_parser()
        add_fields(parser, RunFlags)
        add_fields(parser, Recipe, cls.BASE, only=cls.ONLY, headings=GROUPS)
        if _tells_of_method(argv):
            name = _method_name(argv) or cls.BASE.method
            method = default_method(name)
            group = parser.add_argument_group(f"options of --method {name}", summary(method))
            add_method(group, method)
        parser.usage = None if cls.ONLY else "secateurs prune --macs X --out FOLDER [FLAGS]"
        if not cls.ONLY and {"-h", "--help"} & set(argv):
            parser.epilog = METHODS.format(list_methods())
        return parser

    @classmethod
    def settings(cls, values: Mapping[str, Any]) -> "Invocation":
        """Merge the flags over the recipe file, and both over the base recipe."""
        flags = dict(values)
        method = dict(flags.pop("method", {}))
        flags |= {"method": method.pop("name")} if "name" in method else {}
        file, folder, resume = (
            flags.pop("config", None),
            flags.pop("out", None) or cls.FOLDER,
            flags.pop("resume", False),
        )
        if folder is None:
            raise InputError("nothing says where to write; add --out FOLDER")
        keys = read_file(file) if file else {}
        agreed = dict(flags)
        flags = {key: value for key, value in flags.items() if key not in ("trust_code", "allow_pth")}
        if file:
            check_consent({key: value for key, value in keys.items() if key not in flags}, agreed, file)
        if flags.get("method", keys.get("method")) != keys.get("method"):
            keys.pop("options", None)
        keys |= flags
        given = frozenset[str](keys) | (frozenset({"options"}) if method else frozenset())
        return cls(compose(cls.BASE, keys, method), given, folder, resume, agreed)


FROM_WEIGHTS = {"train_epochs": 20, "train_lr": 0.01}
"""Defaults for training a new classifier on trained weights: fewer epochs and a lower rate than from scratch."""

IMAGES_ALONE = {"epochs": 0, "recover": "reconstruct"}
"""Defaults of a recipe on data without labels, for which there is no training loss."""

METHODS = """\
{}

or path.py:CLASS, a method or criterion in a file of your own.

Options of another method: secateurs prune --method NAME --help. In a recipe file they stand beside the name:
  method: {{name: magnitude, p: 2}}
"""


def _tells_of_method(argv: Sequence[str]) -> bool:
    """Return whether options of a method, or the help, are asked for: they need PyTorch, a slow import."""
    words = {word.partition("=")[0] for word in argv}
    return bool(
        {"-h", "--help"} & words or {word for word in words if word.startswith("--method.")} - {"--method.name"}
    )


def _method_name(argv: Sequence[str]) -> str | None:
    """Return the method named by flags or else by the recipe file, so that its options become flags."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    early.add_argument("--method", "--method.name", dest="method")
    early.add_argument("--config", type=Path)
    early.add_argument("--trust-code", action="store_true")
    try:
        found, _ = early.parse_known_args([word for word in argv if not word.startswith("--method.") or "name" in word])
    except argparse.ArgumentError:
        return None  # a value is missing, which the complete parser reports
    if found.method or found.config is None:
        return found.method
    stated = _keys(found.config).get("method")
    name = stated.get("name") if isinstance(stated, dict) else stated
    if not isinstance(name, str):
        return None
    check_consent({"method": name}, {"trust_code": found.trust_code}, found.config)
    return name


def compose(base: Recipe, keys: Mapping[str, Any], own: Mapping[str, Any] | None = None) -> Recipe:
    """Merge keys and a method's settings over a recipe; the method's options are filled in completely.

    >>> compose(Recipe(), {"method": "l2"}).options
    {'p': 2, 'roles': None}
    """
    plain: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in keys.items()}
    if plain.get("weights") is not None:
        plain = {**FROM_WEIGHTS, **plain}
    if str(plain.get("data", base.data)).startswith("images:"):
        plain = {**IMAGES_ALONE, **plain}
    name = plain.get("method", base.method)
    options = dict(plain.pop("options", base.options if name == base.method else {}))
    recipe = replace(base, **plain, options=_merged(options, own or {}))
    return replace(recipe, options=options_of(chosen_method(recipe)))


def _merged(options: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Merge options over others, also inside nested settings."""
    both = dict(options)
    for key, value in own.items():
        old = both.get(key)
        both[key] = _merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return both


def default_method(name: str) -> Any:
    """Return the method or criterion of this name, or of the class in `path.py:Class`, with its default settings."""
    return method_in_file(name) if is_file(name) else make(name)


def chosen_method(recipe: Recipe) -> Any:
    """Return the method of a recipe, with its options and the run's seed."""
    method = with_options(default_method(recipe.method), recipe.options, recipe.method)
    seeded = "seed" in {f.name for f in fields(method)}
    return replace(method, seed=recipe.seed) if seeded else method


def read_file(path: Path) -> dict[str, Any]:
    """Read the keys of a recipe file as fields of `Recipe`."""
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
    parser = new_parser()
    add_fields(parser, Recipe, Recipe())
    name = {"method": {"name": keys.pop("method")}} if "method" in keys else {}
    read = parse_keys(parser, keys | name, f"the recipe {path}").as_dict()
    read |= {"method": read["method"]["name"]} if name else {}
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
