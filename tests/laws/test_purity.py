"""Law 6: looking at a model changes nothing in it, its containers or the process; from any thread, under interrupts."""

import functools
import inspect
import random
import signal
import sys
import threading
import timeit
from collections import OrderedDict, defaultdict, deque

import numpy as np
import pytest
import torch
from torch import nn

import secateurs as sct
from secateurs.errors import SecateursError
from secateurs.graph import prove
from secateurs.network import Network
from secateurs.running import process as process_module
from secateurs.running.replica import Replica


class Hoarder(nn.Module):
    """Fills every kind of container in forward, by every way that leads to it."""

    table: dict = {}  # noqa: RUF012 (shared by all instances: that is the point)

    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)
        self.shift = nn.Parameter(torch.ones(8))
        self.cache, self.nested, self.seen, self.calls = {}, {"deep": [defaultdict(list)]}, set(), 0
        self.ordered, self.last, self.maps, self.again = OrderedDict(), deque(maxlen=2), [], (self.inner,)
        self.notes = Notes()
        maps = self.maps
        self.inner.register_forward_hook(lambda module, inputs, output: maps.append(output))
        self.outer.register_forward_hook(functools.partial(self.keep, "outer"))
        self.step = self.count

    def count(self):
        self.calls += 1

    def keep(self, name, module, inputs, output):
        self.notes.maps[name] = output

    @functools.lru_cache(maxsize=8)  # noqa: B019 (the test is about it)
    def scale(self, n):
        return torch.ones(1, n, 1, 1, device=self.shift.device)

    def forward(self, x):
        self.step()
        x = self.again[0](x)
        n = x.shape[1]
        for store in (self.cache, self.ordered, self.table):
            if n not in store:
                store[n] = torch.zeros(1, n, 1, 1, device=x.device)
            x = x + store[n]
        self.nested["deep"][0][n].append(x)
        self.seen.add(n)
        self.last.append(x)
        return self.outer((x * self.scale(n)).relu())


class Notes:
    """A plain object that a model keeps."""

    def __init__(self):
        self.maps = {}


@pytest.fixture(autouse=True)
def _empty_table():
    Hoarder.table.clear()


def state_of(module):
    """All that a model holds, in words: tensors by identity, version and value; containers by content."""
    return repr(
        [
            (name, sorted((k, repr(v)) for k, v in vars(m).items() if k not in ("_modules", "step", "again")))
            for name, m in module.named_modules()
        ]
    ) + repr([(k, id(t), t._version) for k, t in module.state_dict(keep_vars=True).items()])


def process():
    """What all threads share, and what this one has."""
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.backends.mha.get_fastpath_enabled(),
        torch._C._len_torch_dispatch_stack(),
        torch.get_rng_state().tolist(),
        random.getstate(),
        np.random.get_state()[1].tolist(),  # noqa: NPY002
        threading.active_count(),
    )


X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def described(graph):
    """A graph in words."""
    return repr((graph.groups, graph.protected, graph.cost()))


def test_a_model_that_fills_containers_is_left_as_it_was():
    """Two traces and a prune find the same, nothing is stored in the model, and it runs afterwards."""
    model, same = Hoarder().eval(), Hoarder().eval()
    same.load_state_dict(model.state_dict())
    expected = same(X)
    Hoarder.table.clear()
    before, info = state_of(model), Hoarder.scale.cache_info()

    first, second = sct.trace(model, X), sct.trace(model, X)
    plan = sct.plan(first, model, criterion=sct.criteria.Magnitude(), budget=sct.Budget(macs=0.5))
    prove(first, model, plan.keep)
    result = sct.prune(
        model, X, method="taylor", budget=sct.Budget(macs=0.5), data=[(X, torch.tensor([0, 1]))], loss=flat
    )

    assert [g.name for g in first.groups] == ["inner"]
    assert described(first) == described(second)
    assert state_of(model) == before
    assert Hoarder.scale.cache_info() == info
    assert not Hoarder.table
    assert torch.equal(model(X), expected)
    assert result.model(X).shape == expected.shape


def test_what_a_forward_has_stored_hides_nothing():
    """A model that has run, and has its caches filled, is traced as one that has not; pruned, it fills them anew."""
    model = Hoarder().eval()
    cold = sct.trace(model, X)
    model(X)
    warm = sct.trace(model, X)
    plan = sct.plan(warm, model, criterion=sct.criteria.Magnitude(), budget=sct.Budget(macs=0.5))

    assert described(cold) == described(warm)
    assert sct.verify(plan, model).passed
    sct.apply(plan, model)
    assert model(X).shape == (2, 4, 4, 4)


class Table(nn.Module):
    """Holds tensors in a dictionary that no forward fills."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)
        self.given = {"shift": torch.ones(1)}

    def forward(self, x):
        return self.outer(self.inner(x) + sum(self.given.values()))


def test_a_dictionary_that_no_forward_fills_is_kept():
    """It is no cache: what lies in it is part of what the model computes."""
    model = Table().eval()
    result = sct.prune(model, X, method="magnitude", budget=sct.Budget(macs=0.5))

    assert result.model.given["shift"].item() == 1
    assert not result.graph.refills
    assert sct.verify(result.plan, model).passed


def flat(outputs, targets):
    """A loss of maps."""
    return torch.nn.functional.cross_entropy(outputs.mean((2, 3)), targets)


def test_a_replica_refers_to_itself_only():
    """Bound methods, hooks, containers and plain objects of a replica lead to its own modules, never to the model's."""
    model = Hoarder()
    replica = Replica(Network.of(model)).model
    replica(X)

    assert replica.step.__self__ is replica
    assert replica.again[0] is replica.inner
    assert replica.inner.weight is model.inner.weight
    assert (replica.calls, model.calls) == (1, 0)
    assert len(replica.maps) == 1
    assert (len(replica.notes.maps), len(model.notes.maps)) == (1, 0)
    assert not model.maps
    assert not Hoarder.table


def test_recurrent_weights_are_the_replicas_own():
    """An LSTM keeps its weights in a list besides: the replica's list holds the replica's tensors."""
    model = nn.LSTM(4, 5)
    tensors = {id(t): torch.zeros_like(t) for t in model.parameters()}
    replica = Replica(Network.of(model), tensors).model

    assert all(a is b for a, b in zip(replica._flat_weights, replica._parameters.values(), strict=True))
    assert not replica(torch.ones(1, 1, 4))[0].any()


def little(attention=False):
    """A small network; with attention, one that takes real tensors to trace."""
    torch.manual_seed(0)
    if attention:
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        return nn.Sequential(layer, Decides(), nn.Linear(8, 3)).eval(), torch.randn(2, 4, 8)
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3)).eval(), X


class Decides(nn.Module):
    """Asks for a value, so that meta tensors do not do."""

    def forward(self, x):
        return x if bool(x.sum() > -1e9) else -x


def rounds(few, many):
    """A default of few rounds, and many in the slow tier."""
    return pytest.mark.parametrize("count", [few, pytest.param(many, marks=pytest.mark.slow)])


@rounds(25, 1000)
def test_inference_goes_on_while_the_model_is_looked_at(count):
    """Another thread runs the model all the while, and always gets the same."""
    model, x = little()
    graph = sct.trace(model, x)
    plan = sct.plan(graph, model, criterion=sct.criteria.Magnitude(), budget=sct.Budget(macs=0.5))
    with torch.no_grad():
        expected = model(x)
    wrong, stop = [], threading.Event()

    def infer():
        with torch.no_grad():
            while not stop.is_set():
                try:
                    if not torch.equal(model(x), expected):
                        wrong.append("other numbers")
                except Exception as error:  # noqa: BLE001 (whatever it is, it is what must not happen)
                    wrong.append(repr(error))

    thread = threading.Thread(target=infer)
    thread.start()
    for at in range(count):
        sct.trace(model, x)
        prove(graph, model, plan.keep)
        if at % 10 == 0:
            sct.plan(graph, model, criterion=sct.criteria.Magnitude(), budget=sct.Budget(macs=0.5))
            sct.verify(plan, model, per_group=False)
    stop.set()
    thread.join()

    assert not wrong


def in_threads(work, count=4):
    """Run the same from several threads at once; what each returned or raised."""
    found = [None] * count
    start = threading.Barrier(count)

    def run(at):
        start.wait()
        try:
            found[at] = work()
        except Exception as error:  # noqa: BLE001 (judged by the caller)
            found[at] = error

    threads = [threading.Thread(target=run, args=(at,)) for at in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@rounds(5, 100)
def test_threads_on_one_model_find_the_same_or_hear_our_errors(count):
    """Four threads plan the same; of four that cut, one does, and the others are told that it is done."""
    for _ in range(count):
        model, x = little(attention=False)
        before = process()
        plans = in_threads(
            lambda m=model, x=x: sct.plan(
                sct.trace(m, x), m, criterion=sct.criteria.Magnitude(), budget=sct.Budget(macs=0.5)
            )
        )
        assert all(plan == plans[0] for plan in plans), plans
        cut = in_threads(lambda m=model, p=plans[0]: sct.apply(p, m))
        assert sum(one is model for one in cut) >= 1
        assert all(one is model or isinstance(one, SecateursError) for one in cut), cut
        assert {n: tuple(t.shape) for n, t in model.state_dict().items()} == plans[0].signature_after()
        assert process() == before


class Stop(BaseException):
    """An interrupt."""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs interval timers")
@rounds(12, 2000)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # in a callback of a weak reference
def test_interrupts_leave_model_and_process_as_they_were(count):
    """A timer interrupts `prune` at random moments; nothing is changed, and the next call works."""
    draw = random.Random(0)
    model, x = little(attention=True)
    data = [(x, torch.zeros(2, 4, dtype=torch.long))]

    def prune():
        return sct.prune(model, x, method="taylor", budget=sct.Budget(macs=0.7), data=data, loss=tokens)

    expected = prune().plan
    took = min(timeit.repeat(prune, number=1, repeat=3))
    before, weights = process(), {n: t.clone() for n, t in model.state_dict().items()}
    held, hit = state_of(model), 0

    def interrupt(*_):
        raise Stop

    old = signal.signal(signal.SIGALRM, interrupt)
    try:
        for _ in range(count):
            try:
                signal.setitimer(signal.ITIMER_REAL, draw.uniform(1e-4, took))
                prune()
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Stop:
                hit += 1
            assert process() == before
            assert state_of(model) == held
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)

    assert hit > count // 4
    assert all(torch.equal(t, weights[n]) for n, t in model.state_dict().items())
    assert prune().plan == expected


def test_an_interrupt_at_any_line_of_the_way_out_is_made_good():
    """The switch of fused attention and the generators are put back before the stay is forgotten."""

    @process_module.all_or_nothing
    def verb():
        with process_module.process_kept(torch.device("cpu"), unfused=True):
            torch.rand(1)

    leave = process_module._leave
    source, first = inspect.getsourcelines(leave)
    before, hit = process(), 0
    # Not at `with`: no interrupt comes between the end of its block and the release of the lock.
    for line in (first + n for n, text in enumerate(source) if n and not text.strip().startswith("with")):

        def stop(frame, event, _, line=line):
            if frame.f_code is not leave.__code__:
                return None
            if event == "line" and frame.f_lineno == line:
                sys.settrace(None)
                raise Stop
            return stop

        sys.settrace(stop)
        try:
            verb()
        except Stop:
            hit += 1
        finally:
            sys.settrace(None)
        assert process() == before, line
    assert hit > 5


def test_an_interrupt_while_a_state_is_set_leaves_the_process_as_it_was():
    """Between a state that was set and the block that would restore it: the moment that no `with` covers."""

    @process_module.all_or_nothing
    def interrupted():
        process_module._enter(torch.device("cpu"), unfused=True)
        torch.set_grad_enabled(False)
        random.random()
        raise Stop

    before = process()
    with pytest.raises(Stop):
        interrupted()

    assert process() == before


def tokens(outputs, targets):
    """A loss of sequences."""
    return torch.nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())
