"""What a query of an index takes: numpy's products of mapped vectors beside FAISS and usearch, where installed.

``python benchmarks/measure/index_search.py 10000 100000``. Vectors are noise of length 1: what products cost does not
depend on what they are; approximate indexes miss most of noise, so their share of the right pages is a lower end.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luvc_export.runtime.engine.embed import late_interaction
from luvc_export.search.index import Index, Origin

#: Vectors of a page, numbers of a vector and vectors of a query: of the task ``embed``, and of ``embed-many``.
TASKS = {"one vector": (1, 1024, 1), "many vectors": (64, 128, 16)}
TOP, QUERIES = 5, 9
Found = Callable[[NDArray[np.float32]], "list[int]"]


def unit(shape: tuple[int, int], seed: int) -> NDArray[np.float32]:
    """Vectors of length 1."""
    rows = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def best(scores: NDArray[np.float32]) -> list[int]:
    """The first pages."""
    return np.argsort(-scores, kind="stable")[:TOP].tolist()


def written(folder: Path, rows: NDArray[np.float32], each: int) -> list[str]:
    """Write an index of pages of so many vectors; their names."""
    index = Index(folder, Origin("noise", "", "none", "float32", rows.shape[1]))
    names = [f"{at:064x}" for at in range(len(rows) // each)]
    for at, name in enumerate(names):
        index.add(name, rows[at * each : (at + 1) * each])
    index.save()
    return names


def of_numpy(folder: Path, names: list[str], numbers: int, together: bool) -> Found:
    """This package's: products of pages that lie side by side, or of a page at a time."""
    index = Index(folder, Origin("noise", "", "none", "float32", numbers))
    if together:
        return lambda query: best(index.scores(query, names))
    return lambda query: best(late_interaction(query, [index.rows(name) for name in names]))


def of_faiss(rows: NDArray[np.float32], each: int, graph: bool) -> Found:
    """FAISS, exact or by HNSW: of many vectors, the 50 nearest of each of a query's, whose pages are scored exactly."""
    import faiss

    numbers, metric = rows.shape[1], faiss.METRIC_INNER_PRODUCT
    index = faiss.IndexHNSWFlat(numbers, 32, metric) if graph else faiss.IndexFlatIP(numbers)
    index.add(rows)
    return lambda query: again(query, index.search(query, TOP if each == 1 else 50)[1], rows, each)


def of_usearch(rows: NDArray[np.float32], each: int, graph: bool) -> Found:
    """usearch, likewise."""
    from usearch import index as usearch

    count = TOP if each == 1 else 50
    if not graph:
        return lambda query: again(query, usearch.search(rows, query, count, "ip", exact=True).keys, rows, each)
    index = usearch.Index(ndim=rows.shape[1], metric="ip", dtype="f32")
    index.add(np.arange(len(rows)), rows)
    return lambda query: again(query, index.search(query, count).keys, rows, each)


def again(query: NDArray[np.float32], nearest: NDArray[Any], rows: NDArray[np.float32], each: int) -> list[int]:
    """Candidates' pages, scored exactly."""
    pages = np.unique(nearest.astype(np.int64) // each)
    scores = late_interaction(query, [rows[at * each : (at + 1) * each] for at in pages])
    return pages[np.argsort(-scores, kind="stable")[:TOP]].tolist()


def main() -> None:
    """Print a row for each way: seconds until it can be asked, milliseconds of a query, and its right pages."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("vectors", type=int, nargs="+")
    parser.add_argument("--no-graph", action="store_true", help="leave out HNSW, which takes minutes to make")
    asked = parser.parse_args()
    libraries = {"faiss": ("faiss-cpu", of_faiss), "usearch": ("usearch", of_usearch)}
    there = {name: way for name, (_, way) in libraries.items() if find_spec(name)}
    print("numpy", np.__version__, *(f"{name} {version(libraries[name][0])}" for name in there))
    print(f"{'task':<14}{'vectors':>9}  {'way':<18}{'ready, s':>9}{'query, ms':>11}{'of the best ' + str(TOP):>15}")
    for task, (each, numbers, count) in TASKS.items():
        for vectors in asked.vectors:
            rows = unit((vectors // each * each, numbers), 0)
            queries, right = [unit((count, numbers), 1 + at) for at in range(QUERIES)], list[list[int]]()
            with tempfile.TemporaryDirectory() as folder:
                pages = written(Path(folder), rows, each)
                for word, together in (("", True), (", by page", False)):
                    make = partial(of_numpy, Path(folder), pages, numbers, together)
                    row(f"numpy{word}", task, len(rows), make, queries, right)
            for name, way in there.items():
                for word, graph in (("exact", False), ("HNSW", True)):
                    if not (graph and asked.no_graph):
                        row(f"{name}, {word}", task, len(rows), partial(way, rows, each, graph), queries, right)


def row(
    name: str,
    task: str,
    vectors: int,
    make: Callable[[], Found],
    queries: list[NDArray[np.float32]],
    right: list[list[int]],
) -> None:
    """Measure one way and print it; what the first found is right."""
    started = perf_counter()
    ask = make()
    ready, spent, hits = perf_counter() - started, [], []
    for query in queries:
        started = perf_counter()
        hits.append(ask(query))
        spent.append(1000 * (perf_counter() - started))
    right[:] = right or hits
    share = sum(len({*one} & {*other}) for one, other in zip(hits, right, strict=True)) / (TOP * len(queries))
    print(f"{task:<14}{vectors:>9}  {name:<18}{ready:>9.2f}{median(spent):>11.1f}{share:>15.2f}", flush=True)


if __name__ == "__main__":
    main()
