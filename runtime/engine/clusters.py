"""A page's vectors, alike ones merged: Ward's clusters, and the mean of each, of length 1.

Token pooling of late interaction (Clavie et al., arXiv 2409.14683), behind the graph: which vectors are alike is a
page's own, how many are left is known before.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def pooled(vectors: NDArray[np.float32], visual: int, factor: int) -> NDArray[np.float32]:
    """Merge the vectors of images to one for ``factor`` of them, in the order of each cluster's first; text stays.

    Args:
        vectors: float32 [n, D] of length 1, those of images first.
        visual: How many are of images.
        factor: 1 merges nothing.

    Returns:
        float32 [ceil(visual / factor) + n - visual, D], of length 1.
    """
    if factor == 1 or not visual:
        return vectors
    cluster = members(vectors[:visual], factor)
    sums = np.zeros((cluster.max() + 1, vectors.shape[1]), np.float32)
    np.add.at(sums, cluster, vectors[:visual])
    means = sums / np.maximum(np.linalg.norm(sums, axis=-1, keepdims=True), np.float32(1e-12))
    return np.concatenate([means, vectors[visual:]])


def members(vectors: NDArray[np.float32], factor: int) -> NDArray[np.int64]:
    """Number each vector's cluster, in the order of each cluster's first, int64 [n].

    Args:
        vectors: float32 [n, D] of images, one at least.
        factor: See ``pooled``.
    """
    firsts = ward(vectors, -(-len(vectors) // factor))  # a label is the least of its members
    return np.unique(firsts, return_inverse=True)[1]


def ward(vectors: NDArray[np.float32], clusters: int) -> NDArray[np.int64]:
    """Label each vector by the first member of its cluster, int64 [n].

    Each merge adds least to the squares of distances from clusters' means (Ward 1963), by chains of nearest neighbours
    (Murtagh 1983): O(n^2) steps and distances.

    Args:
        vectors: float32 [n, D].
        clusters: 1 to n.
    """
    count = len(vectors)
    squares = (vectors * vectors).sum(1)
    distances = np.maximum(squares[:, None] + squares - 2 * vectors @ vectors.T, 0)
    np.fill_diagonal(distances, np.inf)
    sizes, alive = np.ones(count, np.float32), np.ones(count, np.bool_)
    chain, merges = list[int](), list[tuple[float, int, int]]()
    while len(merges) < count - 1:
        chain = chain or [int(alive.argmax())]
        row = distances[chain[-1]]
        nearest = int(row.argmin())
        if len(chain) < 2 or row[chain[-2]] > row[nearest]:
            chain.append(nearest)
            continue
        one, other = sorted((chain.pop(), chain.pop()))
        height = distances[one, other]
        merges.append((float(height), one, other))
        joint = sizes + sizes[one] + sizes[other]
        apart = (sizes + sizes[one]) * distances[one] + (sizes + sizes[other]) * distances[other] - sizes * height
        distances[one] = distances[:, one] = np.where(alive, apart / joint, np.inf)
        distances[other] = distances[:, other] = distances[one, one] = np.inf
        sizes[one] += sizes[other]
        alive[other] = False
    labels = np.arange(count)
    for _, one, other in sorted(merges, key=lambda merge: merge[0])[: count - clusters]:
        labels[labels == labels[other]] = labels[one]
    return labels
