"""CHIP and CORING against the loops of their authors' codes, written out again, on real groups."""

import numpy as np
import pytest
import torch
from torch import nn

import secateurs as sct
from secateurs.criteria import CHIP, CORING, score
from secateurs.criteria.chip import independence
from secateurs.criteria.coring import order_of_removal
from secateurs.evidence import observe


def nuclear(matrix):
    return np.linalg.svd(matrix, compute_uv=False).sum()


@pytest.mark.parametrize("shape", [(3, 5, 12), (2, 9, 4), (1, 1, 6), (2, 3, 1)])
def test_independence_is_the_fall_of_the_nuclear_norm_row_by_row(shape):
    """More positions than units, and fewer; also with a dead unit and two equal ones."""
    maps = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    maps[:, 0] = 0
    maps[:, -1] = maps[:, shape[1] // 2]

    for sample, found in zip(maps.numpy(), independence(maps).numpy(), strict=True):
        for unit in range(len(sample)):
            without = sample.copy()
            without[unit] = 0
            assert found[unit] == pytest.approx(nuclear(sample) - nuclear(without), abs=1e-12)


def test_independence_in_parts_is_that_of_the_whole(monkeypatch):
    maps = torch.randn(2, 7, 30, generator=torch.Generator().manual_seed(1))
    whole = independence(maps)
    monkeypatch.setattr("secateurs.criteria.chip.ENTRIES", 60)

    torch.testing.assert_close(independence(maps), whole, rtol=1e-12, atol=0)


def test_chip_looks_at_maps_behind_norm_and_activation_of_so_many_images():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 2, 3, padding=1)
    ).eval()
    nn.init.normal_(model[1].bias)
    images = torch.randn(10, 3, 5, 5)
    graph = sct.trace(model, images[:1])
    data = [(images[:6], torch.zeros(6, dtype=torch.long)), (images[6:], torch.zeros(4, dtype=torch.long))]
    found = score(CHIP(images=8), graph.groups, observe(graph, model, CHIP(images=8), data=data))["0"]

    with torch.no_grad():
        maps = model[:3](images[:8]).double().flatten(2).numpy()
    expected = np.zeros(6)
    for sample in maps:
        for unit in range(6):
            expected[unit] += (nuclear(sample) - nuclear(np.delete(sample, unit, axis=0))) / 8
    assert found.numpy() == pytest.approx(expected, rel=1e-5)


def published_saliency(filters, distance):
    """The loops of the authors' code: HOSVD, pairs, min_sum; each distance with the better one of both signs."""

    def leading(matrix):
        return np.linalg.svd(matrix, full_matrices=False)[0][:, 0]

    def apart(a, b):
        return min(one_way(a, b), one_way(a, -b))

    def one_way(a, b):
        if distance == "vbd":
            return np.var(a - b, ddof=1) / (np.var(a, ddof=1) + np.var(b, ddof=1))
        if distance == "euclidean":
            return np.linalg.norm(a - b)
        return 1 - abs(a @ b) / np.linalg.norm(a) / np.linalg.norm(b)

    count = len(filters)
    vectors = [[leading(np.moveaxis(f, d, 0).reshape(f.shape[d], -1)) for d in range(3)] for f in filters]
    matrix = np.array(
        [[sum(apart(vectors[i][d], vectors[j][d]) for d in range(3)) / 3 for j in range(count)] for i in range(count)]
    )
    saliency = np.full(count, count - 1.0)
    np.fill_diagonal(matrix, np.inf)
    for i in range(count - 1):
        row, col = np.unravel_index(matrix.argmin(), matrix.shape)
        matrix[row, col] = matrix[col, row] = np.inf
        of_row = sum(value for value in matrix[row] if value != np.inf)
        of_col = sum(value for value in matrix[:, col] if value != np.inf)
        gone = col if of_row > of_col else row
        matrix[gone, :] = matrix[:, gone] = np.inf
        saliency[gone] = i
    return saliency


@pytest.mark.parametrize("distance", ["vbd", "euclidean", "cosine"])
def test_coring_removes_filters_in_the_order_of_the_published_loops(distance):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 12, 3), nn.ReLU(), nn.Conv2d(12, 2, 3)).double()
    graph = sct.trace(model, torch.zeros(1, 4, 8, 8, dtype=torch.float64))
    criterion = CORING(distance)
    found = score(criterion, graph.groups, observe(graph, model, criterion))["0"]

    expected = published_saliency(model[0].weight.detach().numpy(), distance)
    # Of the last two, whose sums over all others are both zero, the code removes the one with the lower number.
    assert np.minimum(found.numpy(), 10).tolist() == np.minimum(expected, 10).tolist()


def test_a_copy_of_a_filter_with_the_other_sign_goes_first():
    """A filter and its negative have the same singular vectors but for the sign."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 3))
    with torch.no_grad():
        model[0].weight[5] = -2 * model[0].weight[2]
    graph = sct.trace(model, torch.zeros(1, 4, 8, 8))

    assert int(score(CORING(), graph.groups, observe(graph, model, CORING()))["0"].argmin()) in (2, 5)


def test_the_order_of_removal_is_a_permutation_also_among_equals():
    assert order_of_removal(np.zeros((5, 5))).tolist() == [0, 1, 2, 3, 4]
    assert order_of_removal(np.zeros((1, 1))).tolist() == [0]
