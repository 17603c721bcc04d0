"""What a command line means: flags, recipe files, amounts, methods' options, help; nothing is trained here."""

import argparse
import contextlib
import io
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, fields, is_dataclass

import pytest
import yaml

from secateurs import registry
from secateurs.allocate import Uniform
from secateurs.app.cli import commands, extras, main
from secateurs.app.cli.arguments import Invocation, chosen_method, compose, read_file
from secateurs.app.cli.flags import parse_flags, setting
from secateurs.app.cli.method_options import meanings_of, method_fields
from secateurs.app.cli.parts import parts
from secateurs.app.cli.recipe import Recipe
from secateurs.criteria import Magnitude, Taylor
from secateurs.errors import InputError, RecipeError
from secateurs.methods import SRFP
from secateurs.methods.orthoreg.importance import EarlyBird
from secateurs.session.schedule import Asymptotic, Cubic, ExponentialDecay, Linear, ToZero

OWN = sorted({entry.name for entry in registry.entries().values()})


def told(*flags):
    """What `secateurs prune` makes of flags."""
    argv = ["--out", "runs/x", *flags]
    return Invocation.settings(parse_flags(Invocation.parser(argv), argv))


@pytest.mark.parametrize(
    ("flags", "field", "value"),
    [
        (["--macs", "50%"], "macs", 0.5),
        (["--macs=0.5"], "macs", 0.5),
        (["--params", "20M"], "params", 20_000_000),
        (["--params", "1e6"], "params", 1_000_000),
        (["--memory", "16MiB"], "memory", 2**24),
        (["--peak-memory", "64kb"], "peak_memory", 64_000),
        (["--latency", "10ms"], "latency", 10.0),
        (["--latency", "50%"], "latency", 0.5),
        (["--milestones", "[80,120]"], "milestones", (80, 120)),
        (["--protect", "stem", "head"], "protect", ("stem", "head")),
        (["--nesterov", "false"], "nesterov", False),
        (["--decay-norms"], "decay_norms", True),
    ],
)
def test_a_flag_and_a_key_mean_the_same(flags, field, value, tmp_path):
    """As people write amounts; a file says it with the same text."""
    recipe = told(*flags).recipe
    assert getattr(recipe, field) == value
    assert type(getattr(recipe, field)) is type(value)

    text = flags[0].partition("=")[2] or (flags[1:] if len(flags) > 2 else flags[-1])
    key = {field: True if field == "decay_norms" else yaml.safe_load(text) if isinstance(text, str) else text}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(key))
    assert getattr(compose(Recipe(), read_file(tmp_path / "run.yaml")), field) == value


@pytest.mark.parametrize("text", ["half", "50 percent", "20Q", "", "%", "true", "1e", "0x10"])
def test_what_is_no_amount_is_refused(text):
    with pytest.raises(InputError, match="--macs takes a share"):
        told("--macs", text)


@pytest.mark.parametrize(
    ("flags", "options"),
    [
        (
            ["--method", "greg1", "--method.growth.step", "2e-4"],
            {"growth": {"step": 2e-4, "every": 10, "ceiling": 1.0}},
        ),
        (["--method=l2", "--method.roles=[out]"], {"p": 2, "roles": ["out"]}),
        (["--method", "foad"], {"neighbors": registry.make("foad").neighbors}),
        (["--method", "inc-reg", "--method.punish.u", "0.5"], {"unit": "filter"}),
        (["--method", "greg1", "--method.remove", "{conv1: 0.5}"], {"remove": {"conv1": 0.5}}),
    ],
)
def test_options_of_a_method_survive_their_recipe_file(flags, options, tmp_path):
    """Flags, then the recipe file, then the method itself; also options of values inside a method."""
    recipe = told(*flags).recipe
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(recipe.as_keys()))
    again = compose(Recipe(), read_file(tmp_path / "run.yaml"))

    assert options.items() <= recipe.options.items()
    assert recipe == again
    assert chosen_method(recipe) == chosen_method(again)
    assert type(chosen_method(recipe)) is type(registry.make(recipe.method))
    if len(flags) > 2 and "=" not in flags[0]:
        assert chosen_method(recipe) != registry.make(recipe.method)


def test_a_flag_wins_over_a_file_also_inside_a_method(tmp_path):
    """What the flag does not name stays as the file has it; another method begins with its own settings."""
    (tmp_path / "run.yaml").write_text(
        "method: {name: greg1, kept_over_removed: 5, growth: {step: 0.5, every: 7}}\nmacs: 0.5"
    )
    config = ["--config", str(tmp_path / "run.yaml")]
    method = chosen_method(told(*config, "--method.growth.step", "0.25").recipe)

    assert (method.kept_over_removed, method.growth.step, method.growth.every) == (5, 0.25, 7)
    assert told(*config, "--method", "l2").recipe.options == {"p": 2, "roles": None}


@pytest.mark.parametrize("name", OWN)
def test_an_old_recipe_is_told_the_new_name_of_a_setting(name, tmp_path):
    """A setting that was renamed is refused with the name it has now, not by the nearest spelling."""
    method = registry.make(name)
    for old, new in getattr(method, "renamed", {}).items():
        assert hasattr(method, new)
        (tmp_path / "run.yaml").write_text(f"method: {{name: {name}, {old}: 5}}\nmacs: 0.5")
        with pytest.raises(RecipeError, match=f"'{old}' of the method {name} is called '{new}' now"):
            told("--config", str(tmp_path / "run.yaml"))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--method", "greg1", "--method.growth.stp", "3"], "did you mean '--method.growth.step'"),
        (["--method", "greg1", "--method.growth.step", "fast"], "--method.growth.step takes a number, not 'fast'"),
        (["--method", "l2", "--method.roles", "[outside]"], "--method.roles takes"),
        (["--method", "greg1", "--method.growth", "{}"], "--method.growth"),
        (["--method"], "--method"),
        (["--epochs"], "--epochs takes a whole number: expected one argument"),
        (["--mcas", "0.5"], "did you mean '--macs'"),
        (["--decay-norms", "few"], "--decay-norms takes true or false, not 'few'"),
        (["--resume", "true"], "'true' belongs to no flag"),
    ],
)
def test_what_does_not_fit_is_one_sentence(flags, words):
    with pytest.raises(InputError, match=re.escape(words)) as refused:
        told(*flags)
    assert len(str(refused.value)) < 300


NO_FLAG = {"seed": "is the run's: --seed", "normalise": "is named with its allocator: --method.allocator max"}
"""Fields of methods that are no flags, and why."""


@pytest.mark.parametrize("name", OWN)
def test_every_field_of_a_method_is_a_flag_or_says_why_not(name):
    """Also those of values inside it, and of every part that could stand there by name."""

    def missing(value):
        settings, named = method_fields(value), parts(value)
        flags = {f.name for f, _ in (*settings, *named)}
        yield from ((type(value).__name__, f.name) for f in fields(value) if f.init and f.name not in flags)
        inside = [getattr(value, f.name) for f, hint in settings if is_dataclass(hint)]
        standing = [kind() for f, kinds in named for kind in kinds.values() if f.name != "fallback"]
        for part in (*inside, *(one for one in standing if is_dataclass(one) and type(one) is not type(value))):
            yield from missing(part)

    assert [found for found in missing(registry.make(name)) if found[1] not in NO_FLAG] == []


@pytest.mark.parametrize(
    ("flags", "key", "value"),
    [
        (["sfp", "--method.rate", "asymptotic", "--method.rate.at", "0.25"], "rate", Asymptotic(at=0.25)),
        (["sfp", "--method.rate=linear"], "rate", Linear()),
        (["asrfp", "--method.decay.name", "to-zero"], "decay", ToZero()),
        (["asrfp", "--method.decay.cut", "0.8"], "decay", ExponentialDecay(cut=0.8)),
        (["gradual", "--method.criterion", "taylor", "--method.allocator", "max"], "criterion", Taylor()),
        (["gradual", "--method.allocator", "uniform"], "allocator", Uniform()),
        (["bn-scale", "--method.fallback", "l2"], "fallback", Magnitude(p=2)),
        (["ortho-reg", "--method.ticket", "early-bird", "--method.ticket.window", "3"], "ticket", EarlyBird(window=3)),
    ],
)
def test_parts_of_a_method_are_given_by_name_and_survive_their_recipe_file(flags, key, value, tmp_path):
    """Schedules, criteria, allocators and what a method may have or not."""
    recipe = told("--method", *flags).recipe
    assert getattr(chosen_method(recipe), key) == value

    (tmp_path / "run.yaml").write_text(yaml.safe_dump(recipe.as_keys()))
    again = compose(Recipe(), read_file(tmp_path / "run.yaml"))
    assert (again, chosen_method(again)) == (recipe, chosen_method(recipe))


def test_a_part_that_a_flag_names_begins_with_its_own_settings(tmp_path):
    """A flag inside a part goes to the part that the recipe file has, or to the one that another flag names."""
    (tmp_path / "run.yaml").write_text("method: {name: sfp, rate: {name: asymptotic, at: 0.2}, decay: to-zero}")
    config = ["--config", str(tmp_path / "run.yaml")]

    assert chosen_method(told(*config, "--method.rate.snap", "0.9").recipe).rate == Asymptotic(at=0.2, snap=0.9)
    assert chosen_method(told(*config, "--method.rate", "cubic").recipe).rate == Cubic()
    for wrong, words in (("--method.rate", "did you mean 'linear'"), ("--method.rates", "no flag --method.rates")):
        with pytest.raises(RecipeError, match=words):
            told(*config, wrong, "linea")
    assert chosen_method(told("--method", "srfp", "--method.every", "2").recipe) == SRFP(every=2)


@pytest.mark.parametrize("name", OWN)
def test_every_option_of_a_method_says_what_it_means(name):
    """In the documentation of its class, from which the help is made; so do the options of values inside."""

    def unsaid(value):
        meanings = meanings_of(type(value))
        for f, hint in method_fields(value):
            if is_dataclass(hint):
                yield from unsaid(getattr(value, f.name))
            elif not meanings.get(f.name):
                yield f"{type(value).__name__}.{f.name}"

    assert list(unsaid(registry.make(name))) == []


@pytest.mark.parametrize("command", commands.COMMANDS)
def test_every_flag_says_what_it_does(command):
    """And the command itself."""
    parser = commands.command_parser(command)

    assert parser.description
    assert [a.dest for a in parser._actions if not a.help and a.help != argparse.SUPPRESS] == []


@pytest.mark.parametrize("command", ["prune", "inspect", "export"])
def test_no_message_names_a_flag_that_does_not_work(command, capsys):
    """The parser's library has one of its own, for an older way to write completion, that only raises."""
    assert main([command, "--help"]) == 0
    assert main([command, "--nosuch"]) == 2
    printed = capsys.readouterr()

    assert "print_shtab" not in printed.out + printed.err


def test_the_help_lists_every_method(capsys):
    """With its other spellings, and a sentence that is whole."""
    assert main(["prune", "--help"]) == 0
    printed = capsys.readouterr().out

    for name in registry.names():
        assert re.search(rf"^  (\S+ \(.*)?\b{re.escape(name)}\b", printed, re.MULTILINE), name
    assert not re.search(r"\((Y|L|al)\.$", printed, re.MULTILINE)


@pytest.mark.parametrize(
    ("package", "extras_used", "words"),
    [
        ("lightning", ("cli", "train", "report"), "secateurs[train"),
        ("sklearn.datasets", ("cli", "train"), "secateurs[train"),
        ("timm", ("cli",), "secateurs[timm]"),
        ("openvino", ("cli", "export"), "secateurs[openvino"),
        ("nowhere_at_all", ("cli",), "pip install nowhere-at-all"),
    ],
)
def test_a_missing_package_is_named_with_the_extra_that_brings_it(package, extras_used, words):
    """One by one, never everything."""
    said = extras.remedy(ModuleNotFoundError(f"No module named {package!r}", name=package), extras_used)

    assert words in said
    assert "all" not in said.partition("install")[2].replace("nowhere-at-all", "")


def test_extras_that_a_command_lacks_are_named_together(monkeypatch):
    """So that the next start is not refused for the next package."""
    lines = ["rich>=13; extra == 'cli'", 'Made-Up_One>=1; extra == "train"', "secateurs[cli,train]; extra == 'all'"]
    monkeypatch.setattr(extras, "requires", lambda _: lines)

    said = extras.remedy(ModuleNotFoundError("No module named 'rich'", name="rich"), ("cli", "train"))
    assert "'secateurs[cli,train]'" in said


@pytest.fixture(scope="module")
def completion(tmp_path_factory):
    """The file that a user of bash writes once."""
    pytest.importorskip("shtab")
    file, printed = tmp_path_factory.mktemp("completion") / "secateurs", io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(["--print_completion", "shtab-bash"]) == 0
    file.write_text(printed.getvalue())
    return file


def test_completion_knows_commands_and_flags(capsys):
    """Where shtab is installed; elsewhere the message names it."""
    pytest.importorskip("shtab")
    assert main(["--print_completion", "shtab-bash"]) == 0
    printed = capsys.readouterr().out

    assert all(word in printed for word in ("--calibration-batches", "compare", "one-cycle", "--json"))
    assert "--method.name" not in printed


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        (["pru"], {"prune"}),
        (["prune", "--meth"], {"--method"}),
        (["prune", "--method", "gre"], {"greg1", "greg2"}),
        (["prune", "--schedule", "c"], {"cosine", "constant"}),
        (["inspect", "--js"], {"--json"}),
    ],
)
def test_bash_completes(typed, completed, completion):
    """As bash itself asks the script."""
    words = " ".join(map(shlex.quote, ["secateurs", *typed]))
    script = (
        f"source {completion}; COMP_WORDS=({words}); COMP_CWORD={len(typed)}; "
        '_shtab_secateurs secateurs "${COMP_WORDS[-1]}" "${COMP_WORDS[-2]}"; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    found = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, timeout=60)

    assert set(found.stdout.split()) == completed


@dataclass(frozen=True)
class Greeting:
    """Say hello to somebody."""

    who: str = setting("who is greeted", "WHO")
    times: int = setting("how often", "N", default=1)


def greet(greeting: Greeting, console):
    for _ in range(greeting.times):
        console.print(f"hello {greeting.who}")


def test_a_command_is_a_dataclass_and_a_function(monkeypatch, capsys):
    """Its fields are the arguments, its documentation is the help."""
    monkeypatch.setitem(commands.COMMANDS, "greet", commands.Command("there:greet", "there:Greeting", "say hello"))
    monkeypatch.setitem(sys.modules, "there", sys.modules[__name__])

    assert main(["greet", "world", "--times", "2"]) == 0
    assert capsys.readouterr().out == "hello world\nhello world\n"
    assert main(["greet", "--help"]) == 0
    assert "Say hello to somebody." in capsys.readouterr().out
    assert main(["greet"]) == 2
    assert "name who is greeted first: secateurs greet WHO [FLAGS]" in capsys.readouterr().err
    assert main(["gret"]) == 2
    assert "did you mean 'greet'" in capsys.readouterr().err


def test_unknown_methods_are_refused_with_the_near_name():
    with pytest.raises(RecipeError, match="did you mean 'magnitude'"):
        told("--method", "magnitud")
