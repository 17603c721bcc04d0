"""The parts of the attack: each gives how often it tried, and what went wrong, in words."""

import copy
import gc
import hashlib
import inspect
import json
import resource
import shutil
import tempfile
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import chdir
from pathlib import Path
from random import Random

import numpy as np
import safetensors.torch
import torch
from tests.attack import readers, writers
from tests.attack.faults import ended, killed_everywhere, started
from tests.attack.mutations import corrupted, dumped, mutated
from tests.laws.networks import Tied, images, made
from torch import nn

import secateurs as sct
from secateurs.errors import SecateursError
from secateurs.network import Network
from secateurs.store.files import is_unfinished
from secateurs.store.manifest import seal

CORPUS = Path(__file__).with_name("corpus")


def state_of(model):
    """Everything that must not change: objects, attributes, bits."""
    attributes = [{k: id(v) for k, v in vars(m).items()} for m in model.modules()]
    return attributes, {n: (id(t), t.detach().clone()) for n, t in Network.of(model).named.items()}


def changed(before, model):
    """Whether a model is not what it was."""
    attributes, tensors = state_of(model)
    same = attributes == before[0] and tensors.keys() == before[1].keys()
    return not same or any(
        tensors[n][0] != before[1][n][0] or not torch.equal(tensors[n][1], before[1][n][1]) for n in tensors
    )


def kills():
    """Every writer, killed before each call that changes the disk; see `tests.attack.writers`."""
    tried, failed = 0, []
    with tempfile.TemporaryDirectory() as folder:
        for number, writer in enumerate(writers.WRITERS):
            count, wrong = killed_everywhere(*writer(Path(folder, str(number))))
            tried += count
            failed += [f"{writer.__name__}, {one}" for one in wrong]
    return tried, failed


def saved_models(count, seed):
    """Mutations of plan.json and model.safetensors, with hashes as they were and computed anew."""
    random, failed = Random(seed), []
    model, plan = writers.pruned(0, 4)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that a setting which the plan wrote down is another one here
        place = sct.save(model, plan, Path(folder, "saved"))
        whole = {path.name: path.read_bytes() for path in place.iterdir()}
        for number in range(count):
            for name, content in whole.items():
                (place / name).write_bytes(content)
            what = _mutate(place, whole, random)
            if problem := _problem(lambda: sct.load(fresh, place), fresh := made(Tied, seed=3)):
                failed.append(f"{number}, {what}: {problem}")
    return count, failed


def _mutate(place, whole, random):
    """Change one file, or both so that they agree."""
    body = json.loads(whole["plan.json"])
    kind = random.choice(["plan bytes", "weights bytes", "plan", "plan resealed", "plan resealed", "weights resealed"])
    if kind == "plan bytes":
        (place / "plan.json").write_bytes(corrupted(whole["plan.json"], random))
    elif kind == "weights bytes":
        (place / "model.safetensors").write_bytes(corrupted(whole["model.safetensors"], random))
    elif kind == "plan":
        (place / "plan.json").write_bytes(dumped(mutated(body, random)))
    elif kind == "plan resealed":
        body = mutated(body, random)
        if isinstance(body, dict):
            body.pop("seal", None)
            body["seal"] = seal(body)
        (place / "plan.json").write_bytes(dumped(body))
    else:
        weights = corrupted(whole["model.safetensors"], random)
        if random.random() < 0.5:
            state = safetensors.torch.load(whole["model.safetensors"])
            name = random.choice(sorted(n for n, t in state.items() if t.dim()))
            good = state[name]
            state[name] = random.choice([good.double(), good.reshape(-1)[:1], good.int(), good * np.nan])
            weights = safetensors.torch.save({n: t.contiguous() for n, t in state.items()})
        body["weights"] = {"sha256": hashlib.sha256(weights).hexdigest(), "size": len(weights)}
        body.pop("seal")
        body["seal"] = seal(body)
        (place / "model.safetensors").write_bytes(weights)
        (place / "plan.json").write_bytes(dumped(body))
    return kind


def _problem(work, model=None):
    """What is wrong with how a call answers: an error of somebody else's, or a model that was touched by a refusal."""
    before = None if model is None else state_of(model)
    try:
        work()
    except SecateursError as error:
        if model is not None and changed(before, model):
            return f"the model was changed by a call that was refused ({error})"
        return "" if str(error).strip() else "an error without words"
    except Exception as error:  # noqa: BLE001 (this is what is looked for)
        return f"{type(error).__name__}: {str(error)[:120]}"
    return ""


WRONG = [None, 3, -1, 1.5, "text", b"bytes", (), [], {}, object(), len, nn.Linear, float("nan"), np.zeros(2)]
"""What belongs nowhere in the interface, or not everywhere."""


def arguments():
    """Every verb with every argument replaced by what belongs elsewhere; written from the verbs' signatures."""
    tried, failed = 0, []
    with tempfile.TemporaryDirectory() as folder, chdir(folder), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, good in _calls(Path(folder)).items():
            parameters = inspect.signature(getattr(sct, name)).parameters
            for argument in [p for p in parameters if p in good()]:
                for wrong in WRONG:
                    given = good() | {argument: wrong}
                    model = given["model"] if isinstance(given.get("model"), nn.Module) else None
                    tried += 1
                    if problem := _problem(lambda name=name, given=given: getattr(sct, name)(**given), model):
                        failed.append(f"{name}({argument}={str(wrong)[:30]}): {problem}")
                    shutil.rmtree(Path(folder, "new"), ignore_errors=True)
    return tried, failed


def _calls(folder):
    """Good arguments of the verbs."""
    dense, (model, plan) = made(Tied), writers.pruned(0, 4)
    saved = sct.save(model, plan, folder / "saved")
    batch = [(images(), torch.zeros(len(images()), dtype=torch.long))]
    return {
        "trace": lambda: {"model": copy.deepcopy(dense), "example_inputs": images(), "protect": ()},
        "explain": lambda: {"graph": sct.trace(copy.deepcopy(dense), images()), "what": {"conv1": [0]}},
        "prune": lambda: {
            "model": copy.deepcopy(dense),
            "example_inputs": images(),
            "method": "l1",
            "budget": sct.Budget(macs=0.5),
            "protect": (),
        },
        "apply": lambda: {"plan": plan, "model": copy.deepcopy(dense), "optimizer": None},
        "mask": lambda: {"plan": plan, "model": copy.deepcopy(dense)},
        "verify": lambda: {"plan": plan, "model": copy.deepcopy(dense), "example_inputs": images()},
        "recalibrate": lambda: {"model": copy.deepcopy(dense), "data": batch, "batches": 1},
        "save": lambda: {"model": copy.deepcopy(model), "plan": plan, "directory": folder / "new"},
        "load": lambda: {"model": copy.deepcopy(dense), "directory": saved},
        "load_plan": lambda: {"directory": saved},
    }


def threads(rounds):
    """Four threads save to one folder: one whole model is left."""
    models, failed = [writers.pruned(seed, 4) for seed in range(4)], []
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(4) as pool:
        for number in range(rounds):
            place = Path(folder, str(number))
            said = list(pool.map(lambda one, place=place: _problem(lambda: sct.save(*one, place)), models))
            failed += [f"round {number}: {one}" for one in said if one]
            if not writers.loads(place, *(model for model, _ in models)):
                failed.append(f"round {number}: no whole model is left")
    return rounds, failed


def processes(rounds):
    """Four processes save to one folder: one whole model is left, and nothing unfinished."""
    models, failed = [writers.pruned(seed, 4) for seed in range(4)], []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            place = Path(folder, str(number))
            children = [started(lambda one=one, place=place: _problem(lambda: sct.save(*one, place))) for one in models]
            failed += [f"round {number}: a process ended with {code}" for code in map(ended, children) if code]
            if not writers.loads(place, *(model for model, _ in models)) or [*filter(is_unfinished, place.iterdir())]:
                failed.append(f"round {number}: no whole model is left, or something unfinished is")
    return rounds, failed


def cycles(count):
    """Prune, save, load, train in a session, over and over: memory stays level after a tenth of them."""
    usage = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            result = sct.prune(made(Tied), images(), method="l1", budget=sct.Budget(macs=0.5))
            sct.save(result.model, result.plan, Path(folder, "one"), overwrite=number > 0)
            sct.load(made(Tied), Path(folder, "one"))
            _session(result.model)
            if number in (count // 10, count - 1):
                gc.collect()
                usage.append(_resident())
    grown = usage[1] - usage[0]
    return count, [] if grown < 2**25 else [f"{grown / 2**20:.0f} MiB more after {count} cycles"]


def _session(model):
    """A session of two steps on a model, saved, continued and finished."""
    session = sct.Session(model, images(), method="sfp", budget=sct.Budget(macs=0.8), steps_per_epoch=2, epochs=1)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    session.load_state_dict(session.state_dict())
    session.attach(optimizer)
    for _ in range(2):
        optimizer.zero_grad()
        model(images()).square().mean().backward()
        optimizer.step()
    session.finish(early=True)


def files(count, seed):
    """Mutations of a whole file of every kind, also with their hashes computed anew, given to their readers."""
    random, failed = Random(seed), []
    whole = readers.seeds()
    for number in range(count):
        letter = random.choice(sorted(whole))
        content = whole[letter]
        if letter in "tr" or random.random() < 0.3:
            content = corrupted(content, random)
        else:
            content = dumped(mutated(json.loads(content), random))
        if problem := _problem(lambda content=content, letter=letter: readers.read(letter.encode() + content)):
            failed.append(f"{number}, {readers.READERS[letter].__name__}: {problem}: {content[:200]!r}")
    return count, failed


def corpus():
    """What fuzzing has found, each file given to its reader."""
    found = sorted(path for path in CORPUS.iterdir() if path.is_file())
    said = [(path.name, _problem(lambda path=path: readers.read(path.read_bytes()))) for path in found]
    return len(found), [f"{name}: {problem}" for name, problem in said if problem]


def _resident():
    """Bytes that this process holds in memory."""
    pages = Path("/proc/self/statm")
    if pages.exists():
        return int(pages.read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
