"""What plans keep of retrieval: `python -m glyph_search.measure -o ../docs/results` in `examples`.

Pages of the heldout split are embedded by a bundle, and queries about them (a query a page) rank them all: NDCG@5 of
every plan with a name, of prunes to a quarter by three scores, of merging at the output with random and even choice
beside it, and of vectors kept in fewer bits. Writes `retrieval.json`, a record a line, and tables of `retrieval.md`.
With `--one` pages have one vector: `retrieval-one.json`, its tables, and prunes by norm too, also to `staged`'s share.
A killed run goes on behind the last ground that it finished; records of other weights or recipes are measured anew.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glyph_search.checkpoint import BASE, ONE, SMALL, write_checkpoint
from glyph_search.corpus import FACTS, GROUNDS, OF_ONE, SIZES, queries, relevant, sheet
from luvc_export.calibration.intervals import Interval, accuracy, retention
from luvc_export.calibration.pairs import Floats, ndcg
from luvc_export.core.files.pages import table as markdown
from luvc_export.core.files.pages import within
from luvc_export.core.named_plans import NAMED, PICTURES
from luvc_export.core.plan import Plan
from luvc_export.pipeline import export_bundle, make_plan
from luvc_export.runtime.engine.clusters import pooled
from luvc_export.runtime.engine.embed import late_interaction
from luvc_export.runtime.engine.vector_form import pack, unpack
from luvc_export.runtime.session import Session

UNIT = 28  # pixels of a visual token's side
#: Layers of the LLM that see every token before a prune: an eighth of them, as of `staged`.
BEFORE, LAYERS = 1, 8
#: Vectors that are left of a page's, by cells that merge: the mean of each, of length 1, as `--merge-vectors` does it.
CELLS = {"1/2": (1, 2), "1/4": (2, 2), "1/9": (3, 3)}
#: Forms that the index keeps vectors in.
FORMS, IN_FORMS = ("float16", "int8", "binary"), "vectors merged 1x2"
#: The file of the figures and the marks of their tables, of many vectors and of one.
NAMES = (("retrieval.json", "plans"), ("retrieval-one.json", "one"))
Vectors = list[NDArray[np.float32]]
Row = dict[str, Any]


def plans(checkpoint: Path, size: tuple[int, int], one: bool = False) -> dict[str, Plan]:
    """Plans that are measured, by name: none, named ones, and prunes by some scores to a quarter, or as `staged`."""
    units, task = size[0] // UNIT * (size[1] // UNIT), "embed" if one else None
    named = {name: make_plan(str(checkpoint), name, image_size=size, task=task) for name in ("none", *PICTURES)}
    shares: dict[str, tuple[int, Sequence[str]]] = {"quarter": (units // 4, ("residual", "random", "stride"))}
    if one:
        counts = {"staged": named["staged"].llm.keep[BEFORE], "quarter": units // 4}
        shares = {share: (count, ("norm", "random", "stride")) for share, count in counts.items()}
    for share, (count, scores) in shares.items():
        budgets = (*[units] * BEFORE, *[count] * (LAYERS - BEFORE))
        for name in scores:
            pruned = make_plan(str(checkpoint), budgets, image_size=size, score=name, last_layer="full")
            named[f"{share}-{name}"] = pruned
    return named


def derived(pages: Vectors, grid: tuple[int, int]) -> Iterator[tuple[str, Vectors]]:
    """Yield what becomes of a page's uncompressed vectors [units + text, D] behind the graph: merged, or left out.

    ``merged`` is by cells, ``alike ones merged`` what ``--pool`` of ``search`` does, at the factor of the share.
    """
    units = grid[0] * grid[1]
    rng = np.random.default_rng(0)
    for share, (high, wide) in CELLS.items():
        below, right = -grid[0] % high, -grid[1] % wide
        merged = list[NDArray[np.float32]]()
        for page in pages:
            whole = np.pad(page[:units].reshape(*grid, -1), ((0, below), (0, right), (0, 0)))
            sums = (
                whole.reshape(len(whole) // high, high, -1, wide, whole.shape[-1])
                .sum((1, 3))
                .reshape(-1, whole.shape[-1])
            )
            cells = sums / np.linalg.norm(sums, axis=-1, keepdims=True)
            merged.append(np.concatenate([cells, page[units:]]))
        yield f"vectors merged {high}x{wide}", merged
        count = len(merged[0]) - len(pages[0][units:])
        chosen = [rng.permutation(units)[:count] for _ in pages]
        yield (
            f"{share} of vectors, at random",
            [page[[*one, *range(units, len(page))]] for one, page in zip(chosen, pages, strict=True)],
        )
        clusters = [pooled(page, units, round(1 / float(Fraction(share)))) for page in pages]
        yield f"{share} of vectors, alike ones merged", clusters
        even = np.linspace(0, units - 1, count).round().astype(int)
        yield f"{share} of vectors, evenly", [page[[*even, *range(units, len(page))]] for page in pages]


def score(asked: Vectors, pages: Vectors) -> Floats:
    """Scores [queries, pages] of vectors [n, D] each."""
    return np.stack([late_interaction(one, pages) for one in asked]).astype(np.float64)


def random_vectors(like: Vectors, seed: int) -> Vectors:
    """As many vectors of length 1 in random directions."""
    rng = np.random.default_rng(seed)
    rows = [rng.standard_normal(one.shape, np.float32) for one in like]
    return [one / np.linalg.norm(one, axis=-1, keepdims=True) for one in rows]


class Study:
    """Pages of a ground and queries about them, of each number of facts, and how vectors rank them."""

    def __init__(self, ground: str, count: int, split: str = "heldout", one: bool = False) -> None:
        drawn = [sheet(split, ground, 0, number) for number in range(count)]
        self.ground, self.one = ground, one
        self.pictures, shown = [pixels for pixels, _ in drawn], [one for _, one in drawn]
        counts = OF_ONE if one else FACTS[ground]
        self.wanted = {facts: queries(split, ground, 0, shown, facts) for facts in counts}
        self.answers = {facts: relevant(some, shown) for facts, some in self.wanted.items()}
        self.full: dict[int, Floats] = {}

    def rows(self, plan: str, asked: dict[int, Vectors], pages: Vectors, form: str = "float32") -> Iterator[Row]:
        """What a plan keeps, by facts: NDCG@5, its share of the first plan's, vectors and bytes of a page."""
        width = pages[0].shape[1]
        packed = [pack(page, form) for page in pages]
        unpacked = [unpack(page, form, width) for page in packed]
        for facts, some in asked.items():
            gains = ndcg(score(some, unpacked), self.answers[facts])
            full = self.full.setdefault(facts, gains)
            yield {
                "ground": self.ground,
                "facts": facts,
                "plan": plan if form == "float32" else f"{plan}, {form}",
                "ndcg": [round(value, 4) for value in accuracy(gains, range(len(gains)))],
                "kept": [round(value, 4) for value in retention(gains, full, range(len(gains)))],
                "vectors": round(float(np.mean([len(page) for page in pages])), 1),
                "bytes": round(float(np.mean([page.nbytes for page in packed]))),
            }

    def measured(self, folder: Path, backend: str, derived_only: bool = False) -> Iterator[Row]:
        """Yield the records of every plan, the uncompressed one first, and what becomes of its vectors."""
        size, checkpoint = SIZES[self.ground], folder / "checkpoint"
        if not checkpoint.exists():
            write_checkpoint(BASE, ONE if self.one else SMALL, checkpoint)
        every = plans(checkpoint, size, self.one)
        every = {"none": every["none"]} if derived_only else every
        how: dict[str, Any] = {"image_size": size, "text_capacity": 128, "fit": "stretch"}
        how |= {"task": "embed"} if self.one else {}
        bundle = export_bundle(str(checkpoint), folder / self.ground, every, **how)
        asked: dict[int, Vectors] = {}
        for name in every:
            session = Session(bundle, backend, plan=name)
            for facts, some in self.wanted.items() if not asked else ():
                asked[facts] = self.vectors(session, texts=[query.text for query in some])
            pages = self.vectors(session, images=self.pictures)
            yield from self.rows(name, asked, pages)
            if name == "none":
                noise = {facts: random_vectors(some, facts) for facts, some in asked.items()}
                yield from self.rows("random vectors", noise, random_vectors(pages, 0))
                yield from self.smaller(asked, pages)

    def vectors(self, session: Session, **inputs: Any) -> Vectors:
        """Vectors [n, D] of each input."""
        return [row[None] for row in session.embed(**inputs)] if self.one else session.embed_many(**inputs)

    def smaller(self, asked: dict[int, Vectors], pages: Vectors) -> Iterator[Row]:
        """Yield what becomes of uncompressed vectors in an index: fewer of them, and fewer bits."""
        size = SIZES[self.ground]
        fewer = {} if self.one else dict(derived(pages, (size[0] // UNIT, size[1] // UNIT)))
        for name, some in fewer.items():
            yield from self.rows(name, asked, some)
        forms = {"none": pages} | {name: fewer[name] for name in (IN_FORMS,) if name in fewer}
        for name, some in forms.items():
            for form in FORMS:
                yield from self.rows(name, asked, some, form)


def counts(row: Row) -> tuple[str, str]:
    """Vectors and bytes of a page, for people."""
    return f"{row['vectors']:g}", f"{row['bytes']:,}"


def table(rows: Sequence[Row]) -> str:
    """The records as Markdown, a table of each ground and number of facts."""
    tables = []
    for ground, facts in dict.fromkeys((row["ground"], row["facts"]) for row in rows):
        some = [row for row in rows if (row["ground"], row["facts"]) == (ground, facts)]
        title = f"{ground}, queries of {facts}"
        lines = [
            (row["plan"], *(Interval(*row[name]).text(3) for name in ("ndcg", "kept")), *counts(row)) for row in some
        ]
        tables.append(markdown((title, "NDCG@5", "kept", "vectors a page", "bytes"), lines, 1))
    return "\n".join(tables)


def write(folder: Path, data: dict[str, Any], one: bool = False) -> None:
    """Write the figures, a record a line, and the tables of the page."""
    name, marks = NAMES[one]
    rows = ",\n".join(json.dumps(row) for row in data["rows"])
    text = f'{{"about": {json.dumps(data["about"])},\n"rows": [\n{rows}\n]}}\n'
    (folder / name).write_text(text, encoding="utf-8")
    page = folder / "retrieval.md"
    if page.is_file():
        page.write_text(within(page.read_text(encoding="utf-8"), marks, table(data["rows"])), encoding="utf-8")


def kept(before: dict[str, Any], about: dict[str, Any]) -> list[Row]:
    """Records that need no measuring: of the same weights, recipes, pages and back-end."""
    return before["rows"] if before["about"] == about else []


def main() -> None:
    """Measure what is not there yet, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("../docs/results"), help="folder of the figures")
    parser.add_argument("--pages", type=int, default=300, help="pages of each ground, with a query about each")
    parser.add_argument("--grounds", nargs="+", choices=GROUNDS, default=list(GROUNDS))
    parser.add_argument("--one", action="store_true", help="one vector a page, of pictures of digits alone")
    parser.add_argument("--split", choices=("search", "heldout"), default="heldout", help="search: to choose by")
    parser.add_argument("--derived", action="store_true", help="anew what becomes of uncompressed vectors, no plan")
    parser.add_argument("--backend", default="openvino", help="what embeds, in the arithmetic that it comes with")
    args = parser.parse_args()
    if args.one:
        args.grounds = ["textured"]
    weights = hashlib.sha256((ONE if args.one else SMALL).read_bytes()).hexdigest()[:16]
    about: dict[str, Any] = {"pages": args.pages, "backend": args.backend, "weights": weights}
    about["recipes"] = {name: NAMED[name].key for name in PICTURES}
    about |= {"split": "search"} if args.split == "search" else {}
    file = args.output / NAMES[args.one][0]
    before = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"about": about, "rows": []}
    data: dict[str, Any] = {"about": about, "rows": kept(before, about)}
    with TemporaryDirectory() as scratch:
        for ground in args.grounds:
            before = [row for row in data["rows"] if row["ground"] == ground]
            if before and not args.derived:
                continue
            rows = list[Row]()
            for row in Study(ground, args.pages, args.split, args.one).measured(
                Path(scratch), args.backend, args.derived
            ):
                rows.append(row)
                print(json.dumps(row), flush=True)
            others = [
                row for row in before if (row["facts"], row["plan"]) not in {(r["facts"], r["plan"]) for r in rows}
            ]
            rows = sorted([*rows, *others], key=lambda row: row["facts"])
            data["rows"] = [row for row in data["rows"] if row["ground"] != ground] + rows
            write(args.output, data, args.one)
    write(args.output, data, args.one)
    print(table(data["rows"]))


if __name__ == "__main__":
    main()
