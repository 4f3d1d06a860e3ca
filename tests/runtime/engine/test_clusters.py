"""Alike vectors of a page merge: Ward's clusters, as many as are known before, text untouched."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from luvc_export.runtime.engine.clusters import pooled, ward

Vectors = NDArray[np.float32]


def unit(count: int, seed: int = 0) -> Vectors:
    rows = np.random.default_rng(seed).standard_normal((count, 8)).astype(np.float32)
    return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True))


def by_definition(vectors: Vectors, clusters: int) -> set[frozenset[int]]:
    """Merge the two clusters that add least to the squares of distances from means, until so many are left."""
    groups = [frozenset([at]) for at in range(len(vectors))]

    def spread(group: frozenset[int]) -> float:
        rows = vectors[sorted(group)].astype(np.float64)
        return float(((rows - rows.mean(0)) ** 2).sum())

    while len(groups) > clusters:
        pairs = [(one, other) for at, one in enumerate(groups) for other in groups[at + 1 :]]
        one, other = min(pairs, key=lambda pair: spread(pair[0] | pair[1]) - spread(pair[0]) - spread(pair[1]))
        groups = [group for group in groups if group not in (one, other)] + [one | other]
    return set(groups)


@pytest.mark.parametrize(("count", "clusters"), [(14, 4), (9, 8), (9, 9), (7, 1), (1, 1)])
def test_clusters_are_wards(count: int, clusters: int) -> None:
    labels = ward(unit(count), clusters)
    groups = {frozenset(np.flatnonzero(labels == label).tolist()) for label in labels}
    assert groups == by_definition(unit(count), clusters) and len(groups) == clusters
    assert all(label == min(group) for group in groups for label in labels[sorted(group)])


def test_alike_vectors_become_one_and_text_stays() -> None:
    """Four directions, each five times with little noise, in any order: their means, in the order of the first."""
    order = np.random.default_rng(1).permutation(20) % 4
    rows = unit(4)[order] + 0.01 * unit(20, 2)
    rows /= np.linalg.norm(rows, axis=-1, keepdims=True)
    text = unit(3, 3)
    ours = pooled(np.concatenate([rows, text]), 20, 5)
    firsts = unit(4)[list(dict.fromkeys(order.tolist()))]
    assert ours.shape == (7, 8) and (ours[4:] == text).all()
    assert np.abs(np.linalg.norm(ours, axis=-1) - 1).max() < 1e-6
    assert np.abs(ours[:4] - firsts).max() < 0.02 < np.abs(ours[:4][::-1] - firsts).max()
    assert pooled(rows, 20, 1) is rows and pooled(text, 0, 4) is text and len(pooled(rows, 19, 4)) == 5 + 1
