"""FOAD against the definitions of the paper and its published code, written out slowly and on their own."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from secateurs.criteria.distances import squared_distances
from secateurs.errors import EvidenceError
from secateurs.graph import Group, trace
from secateurs.methods import FOAD
from secateurs.methods.foad.absorb import absorb, absorption_levels
from secateurs.methods.foad.similarity import FeatureSimilarity, similarity_sum


def slow_similarity(maps):
    """Mean over samples of 1 / (1 + Euclidean distance), pair by pair, in float64."""
    maps = np.asarray(maps, dtype=np.float64)
    samples, count = maps.shape[:2]
    s = np.zeros((count, count))
    for i in range(count):
        for j in range(count):
            s[i, j] = np.mean([1 / (1 + np.linalg.norm(maps[b, i] - maps[b, j])) for b in range(samples)])
    return s


def slow_absorb(s, t, threshold):
    """The published loop: lists, a full sort per kept channel, removed channels scored zero."""
    live = list(range(len(s)))
    kept = []
    for i in range(len(s)):
        if live[i] is None:
            continue
        kept.append(i)
        scores = sorted(
            [(j, 0.0 if live[j] is None or j == i else s[i][j]) for j in range(len(s))],
            key=lambda x: x[1],
            reverse=True,
        )
        for j, score in scores[:t]:
            if j not in kept and score >= threshold:
                live[j] = None
    return kept


def slow_absorb_with_duplicates(s, n, tolerance):
    """The older build's loop: all duplicates first, and the ranks that they leave."""
    live = set(range(len(s)))
    kept = []
    for i in range(len(s)):
        if i not in live:
            continue
        kept.append(i)
        ranking = sorted((j for j in range(len(s)) if j != i), key=lambda j: (-(s[i][j] if j in live else 0.0), j))
        same = [j for j in live if j not in kept and s[i][j] >= 1 - tolerance]
        rest = [j for j in ranking[len(same) : n] if j in live and j not in kept]
        live -= {*same, *rest}
    return kept


def points(count, features, seed, twins=0):
    """Similarities of random points, some of them copies of the first."""
    x = np.random.default_rng(seed).standard_normal((count, features))
    x[1 : 1 + twins] = x[0]
    return 1 / (1 + np.linalg.norm(x[:, None] - x[None], axis=-1))


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 4), (7, 33, 9), (2, 130, 3), (40, 3, 50)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_similarities_are_those_of_every_pair(shape, dtype):
    """One Gram matrix gives what the loop over pairs gives."""
    maps = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)

    tolerance = 1e-12 if dtype == torch.float64 else 2e-6
    np.testing.assert_allclose(similarity_sum(maps) / shape[0], slow_similarity(maps), atol=tolerance)


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_near_maps_are_no_duplicates(offset):
    """Two maps of norm 100 at distance 0.01 are told apart in float32, and equal maps are exactly equal."""
    maps = torch.randn(1, 12, 64, generator=torch.Generator().manual_seed(1)) * 12.5 + offset
    maps[0, 1] = maps[0, 0]
    maps[0, 1, 3] += 0.01
    maps[0, 2] = maps[0, 0]

    s = similarity_sum(maps)

    distance = float((maps[0, 1].double() - maps[0, 0].double()).norm())
    assert s[0, 1].item() == pytest.approx(1 / (1 + distance), abs=1e-6)
    assert s[0, 2].item() == 1.0


def test_dead_channels_are_exact_duplicates():
    """Maps that are all zero have similarity one, whatever the others are."""
    maps = torch.randn(4, 9, 16, generator=torch.Generator().manual_seed(2)).relu() + 3
    maps[:, [2, 5, 7]] = 0

    s = similarity_sum(maps) / 4

    assert s[2, 5] == s[5, 7] == 1.0
    np.testing.assert_allclose(s, slow_similarity(maps), atol=1e-6)


def test_memory_is_bounded_by_chunks(monkeypatch):
    """Tiny chunks, down to one sample and one pair at a time, change nothing."""
    maps = torch.randn(5, 20, 6, generator=torch.Generator().manual_seed(3))
    maps[:, 1] = maps[:, 0] + 1e-4
    whole = similarity_sum(maps)
    monkeypatch.setattr("secateurs.methods.foad.similarity.CHUNK", {"cpu": 64})
    monkeypatch.setattr("secateurs.methods.foad.similarity.ROWS", 3)

    np.testing.assert_allclose(similarity_sum(maps), whole, atol=1e-6)


def test_the_statistic_streams():
    """However the data is cut into batches, and over sites too, the mean is over all maps seen."""
    maps = torch.randn(9, 6, 5, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    statistic = FeatureSimilarity(Group("g", 6, ()), ())
    for part in maps.split([2, 4, 3]):
        statistic.update(part)

    np.testing.assert_allclose(statistic.result().s, slow_similarity(maps), atol=1e-12)
    np.testing.assert_allclose(statistic.result().energy, maps.square().sum(2).mean(0), rtol=1e-5)


def test_a_statistic_of_nothing_is_refused():
    """No map, no similarity."""
    with pytest.raises(EvidenceError, match="no feature map of group 'g'"):
        FeatureSimilarity(Group("g", 2, ()), ()).result()


def test_half_precision_is_computed_in_float32():
    """A distance of half-precision maps is not a half-precision distance."""
    maps = torch.randn(3, 8, 40, generator=torch.Generator().manual_seed(5)).bfloat16()

    np.testing.assert_allclose(similarity_sum(maps) / 3, slow_similarity(maps.double()), atol=1e-6)


@settings(max_examples=50)
@given(st.integers(1, 24), st.integers(1, 6), st.integers(0, 999), st.integers(1, 5), st.sampled_from([0.0, 0.3, 0.6]))
def test_absorption_is_the_published_loop(count, features, seed, neighbors, threshold):
    """Without the duplicate rule, the same channels stay as in the published code."""
    s = points(count, features, seed)

    kept, removed = absorb(s, neighbors=neighbors, threshold=threshold, duplicates=None)

    assert kept == slow_absorb(s, min(neighbors, count), threshold)
    assert sorted([*kept, *(unit for unit, _ in removed)]) == list(range(count))


@settings(max_examples=50)
@given(st.integers(2, 24), st.integers(1, 6), st.integers(0, 999), st.integers(1, 5), st.integers(0, 12))
def test_absorption_of_duplicates_is_the_older_loop(count, features, seed, neighbors, twins):
    """With it, as in the older build."""
    s = points(count, features, seed, min(twins, count - 1))

    assert absorb(s, neighbors=neighbors)[0] == slow_absorb_with_duplicates(s, neighbors, 1e-6)


def test_dead_channels_survive_without_the_duplicate_rule_only():
    """300 of 512 dead channels: as published most of them are kept, with the rule one is."""
    s = points(512, 64, 0, twins=299)
    published, with_rule = (absorb(s, duplicates=rule)[0] for rule in (None, 1e-6))

    assert sum(unit < 300 for unit in published) > 150
    assert sum(unit < 300 for unit in with_rule) == 1
    assert absorb(s[300:, 300:])[0] == absorb(s[300:, 300:], duplicates=None)[0]


@settings(max_examples=50)
@given(st.integers(1, 30), st.integers(1, 5), st.integers(0, 999), st.integers(1, 4), st.sampled_from([0.0, 0.4, 0.9]))
def test_levels_begin_with_the_paper(count, features, seed, neighbors, threshold):
    """The units with a level above one are exactly those that one absorption keeps; one unit outlives all."""
    s = points(count, features, seed, twins=min(2, count - 1))
    kept, removed = absorb(s, neighbors=neighbors, threshold=threshold)
    levels = absorption_levels(s, neighbors=neighbors, threshold=threshold)

    assert np.flatnonzero(levels > 1).tolist() == kept
    assert (levels == levels.max()).sum() == 1
    assert all(levels[unit] == 0 for unit, score in removed if score >= 1 - 1e-6)


def test_maps_are_those_behind_norm_activation_and_pooling():
    """A block of convolution, BatchNorm, ReLU and pooling is compared by what it hands on."""
    torch.manual_seed(0)
    block = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2))
    nn.init.normal_(block[1].bias)
    net = nn.Sequential(block, nn.Conv2d(8, 2, 1)).eval()
    images = torch.randn(6, 3, 8, 8)
    keep = FOAD().select(trace(net, images), net, None, data=[images[:4], images[4:]])

    with torch.no_grad():
        s = slow_similarity(block(images).flatten(2))
    assert keep["0.0"].tolist() == slow_absorb_with_duplicates(s, 1, 1e-6)


def published_choice(net, images):
    """The authors' loop over a VGG: each block's output, and the pooling of the last one behind it."""
    maps, found = images, {}
    with torch.no_grad():
        for name, block in net.features.named_children():
            maps = block(maps)
            found[f"features.{name}.0"] = slow_absorb(slow_similarity(maps.flatten(2)), 1, 0.0)
    return found


def test_the_preset_leaves_streams_whole():
    """Two convolutions that are added: together by default, and not at all as published."""
    net = Streams().eval()
    images = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    graph = trace(net, images)
    published, ours = (m.select(graph, net, None, data=[images]) for m in (FOAD.preset("published"), FOAD()))

    assert set(published) == {"inner"}
    assert set(ours) == {"inner", "stem"}


class Streams(nn.Module):
    """A residual block."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.inner, self.outer = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 8, 1), nn.Conv2d(8, 6, 1)
        self.head = nn.Conv2d(6, 2, 1)

    def forward(self, x):
        x = self.stem(x)
        return self.head((x + self.outer(self.inner(x).relu())).relu())


def test_the_published_code_reads_the_last_maps_before_their_pooling():
    """Blocks with a pooling inside are read behind it; the pooling that makes features comes after the choice."""
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()

            def block(before, after, *more):
                return nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), *more)

            self.features = nn.Sequential(block(3, 12, nn.MaxPool2d(2)), block(12, 16), block(16, 40))
            self.pool, self.classifier = nn.AvgPool2d(2), nn.Linear(160, 5)

        def forward(self, x):
            return self.classifier(self.pool(self.features(x)).flatten(1))

    net = Net().eval()
    images = torch.randn(4, 3, 8, 8)
    graph = trace(net, images)
    published, ours = (
        method.select(graph, net, None, data=[images]) for method in (FOAD.preset("published"), FOAD(duplicates=None))
    )

    assert {name: units.tolist() for name, units in published.items()} == published_choice(net, images)
    assert ours["features.2.0"].tolist() != published["features.2.0"].tolist()


def test_the_stronger_of_two_stays_in_the_order_of_energy():
    """Whatever the places; in index order the first stays."""
    net = nn.Sequential(nn.Conv2d(1, 4, 1, bias=False), nn.Conv2d(4, 1, 1)).double()
    images = torch.rand(3, 1, 2, 2, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    graph = trace(net, images)
    for order, kept in ((torch.arange(4), [1, 3]), (torch.tensor([3, 2, 1, 0]), [0, 2])):
        net[0].weight.data[:, 0, 0, 0] = torch.tensor([1.0, 1.1, 5.0, 5.1])[order].double()

        assert FOAD(order="energy").select(graph, net, None, data=[images])["0"].tolist() == kept
        assert FOAD().select(graph, net, None, data=[images])["0"].tolist() == [0, 2]


def test_squared_distances_are_exact():
    """In float64, near pairs included."""
    x = torch.randn(40, 17, generator=torch.Generator().manual_seed(6)) + 1000
    x[1] = x[0]
    x[2] = x[0]
    x[2, 0] += 1e-3
    direct = (x.double()[:, None] - x.double()[None]).square().sum(-1)

    np.testing.assert_allclose(squared_distances(x), direct, rtol=1e-6, atol=0)
    assert squared_distances(x)[0, 1] == 0
