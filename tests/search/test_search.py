"""``search``: scores are the session's, pages are embedded once, an index of a stranger's is refused."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

sys.path.append(str(Path(__file__).resolve().parents[1] / "export" / "families"))
import many_vectors
import vector_bundles

from luvc_export.bundle.folder import Bundle
from luvc_export.core.files.safe_files import is_scratch
from luvc_export.errors import LuvcError, MachineError, UsageError
from luvc_export.runtime.engine.vector_form import VectorOptions
from luvc_export.runtime.session import Session
from luvc_export.search import pages as search_pages
from luvc_export.search.page import results_page
from luvc_export.search.run import Search, key_of

QUERY = "where is a red seven?"


@pytest.fixture(scope="module")
def bundles(pytestconfig: pytest.Config) -> Callable[[str], Path]:
    def kept(name: str) -> Path:
        if name in many_vectors.BUNDLES:
            return many_vectors.kept(pytestconfig.cache.mkdir(f"many-{name}"), name) / "bundle"
        return vector_bundles.kept(pytestconfig.cache.mkdir(f"vectors-{name}"), name) / "bundle"

    return kept


@pytest.fixture(scope="module")
def one(bundles: Callable[[str], Path]) -> Session:
    """A session with one vector a page."""
    return Session(bundles("qwen2_vl"), "cpu", threads=1)


@pytest.fixture(scope="module")
def many(bundles: Callable[[str], Path]) -> Session:
    """A session with a vector of every token."""
    return Session(bundles("every"), "cpu", threads=1)


def noise(seed: int, size: tuple[int, int] = (84, 112)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3), np.uint8))


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Ten pictures, one of them in a folder below, with names that HTML and JSON escape."""
    folder = tmp_path / "scans"
    (folder / "b & <c>").mkdir(parents=True)
    for number in range(9):
        noise(number).save(folder / f"p{number}.png")
    noise(9).save(folder / "b & <c>" / "\N{SNOWMAN} 9.png")
    (folder / "note.txt").write_text("no page")
    return folder


def pdf(path: Path, *seeds: int) -> None:
    first, *others = [noise(seed, (120, 90)).resize((360, 480), Image.Resampling.NEAREST) for seed in seeds]
    first.save(path, save_all=True, append_images=others)


def ranked(search: Search, query: str = QUERY) -> list[tuple[str, int | None, float]]:
    return [(hit.name, hit.number, hit.score) for hit in search.rank(search.query(query), 100)]


@pytest.mark.parametrize("name", ["one", "many"])
def test_scores_are_the_session_s(name: str, scans: Path, request: pytest.FixtureRequest) -> None:
    """Also from the index alone, and unlike those of another query."""
    session: Session = request.getfixturevalue(name)
    search = Search(session, scans)
    search.update()
    names = list(search.files)
    wanted = session.score(QUERY, images=[scans / one for one in names])
    hits = ranked(search)
    assert sorted(one for one, _, _ in hits) == sorted(names) and search.embedded == 10
    assert [one for one, _, _ in hits] == [names[at] for at in np.argsort(-wanted, kind="stable")]
    assert np.abs(np.sort([score for _, _, score in hits])[::-1] - np.sort(wanted)[::-1]).max() < 1e-4
    again = Search(session, scans)
    again.update()
    assert again.embedded == 0 and ranked(again) == hits != ranked(again, "x")


@pytest.mark.parametrize("dtype", ["float16", "int8", "binary"])
def test_vectors_of_fewer_bits_rank_as_far_as_they_say(dtype: str, scans: Path, one: Session) -> None:
    options = VectorOptions(embed_dtype=dtype, dimensions=32)
    search = Search(one, scans, options=options)
    search.update()
    query = one.embed(texts=[QUERY], dimensions=32)[0]
    exact = {name: float(query @ one.embed(images=[scans / name], dimensions=32)[0]) for name in search.files}
    tolerance = {"float16": 1e-3, "int8": 2e-2, "binary": 0.5}[dtype]
    assert all(abs(exact[name] - score) < tolerance for name, _, score in ranked(search))


def test_what_changes_is_embedded_anew_and_what_goes_is_dropped(scans: Path, one: Session) -> None:
    """A page that moved, or was touched, has its vectors already; so has one that comes twice."""
    index = scans.with_name("an index")
    search = Search(one, scans, index)
    search.update()
    before = dict.fromkeys([name for name, _, _ in ranked(search)])
    noise(20).save(scans / "p0.png")
    (scans / "p1.png").rename(scans / "moved.png")
    shutil.copy(scans / "p2.png", scans / "twice.png")
    (scans / "p3.png").touch()
    (scans / "p4.png").unlink()
    noise(21).save(scans / "new.png")
    search = Search(one, scans, index)
    search.update()
    assert search.embedded == 2
    names = {name for name, _, _ in ranked(search)}
    assert names == before.keys() - {"p1.png", "p4.png"} | {"moved.png", "twice.png", "new.png"}
    fresh = Search(one, scans, scans.with_name("another"))
    fresh.update()
    assert np.allclose([score for *_, score in ranked(fresh)], [score for *_, score in ranked(search)], atol=1e-5)
    for name in names - {"p0.png"}:
        (scans / name).unlink()
    search = Search(one, scans, index)
    search.update()
    assert [name for name, *_ in ranked(search)] == ["p0.png"] and search.embedded == 0
    held = sum(np.load(path).shape[0] for path in index.glob("*.npy"))
    assert held <= 2, "vectors of pages that are gone stay"


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit, MachineError])
def test_interrupted_it_keeps_what_was_embedded(
    end: type[BaseException], scans: Path, one: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = one.embed, list[int]()

    def embed(images: Any, **more: Any) -> Any:
        calls.append(len(images))
        if len(calls) == 2:
            raise end("stop")
        return real(images=images, **more)

    monkeypatch.setattr(one, "embed", embed)
    search = Search(one, scans)
    with pytest.raises(end):
        search.update()
    assert calls == [8, 2]
    search = Search(one, scans)
    search.update()
    assert search.embedded == 2 and calls == [8, 2, 2]
    assert not [path for path in search.folder.iterdir() if is_scratch(path.name)]


def test_pages_of_a_pdf_each_by_what_they_show(tmp_path: Path, many: Session) -> None:
    """One page of three changes; a file that is no PDF is named, and costs nobody else a page."""
    folder = tmp_path / "papers"
    folder.mkdir()
    pytest.importorskip("pypdfium2", reason="pip install 'luvc-export[pdf]'")
    pdf(folder / "a.pdf", 1, 2, 3)
    (folder / "b.pdf").write_bytes(b"%PDF-1.7 no")
    (folder / "c.png").write_bytes(b"\x89PNG no")
    search = Search(many, folder)
    search.update()
    assert sorted((name, number) for name, number, _ in ranked(search)) == [("a.pdf", at) for at in (1, 2, 3)]
    assert search.embedded == 3 and search.errors.keys() == {"b.pdf", "c.png"}
    assert "the PDF cannot be read" in search.errors["b.pdf"] and "not an image" in search.errors["c.png"]
    pdf(folder / "a.pdf", 1, 4, 3)
    changed = Search(many, folder)
    changed.update()
    assert changed.embedded == 1
    scores = [{number: score for _, number, score in ranked(each)} for each in (search, changed)]
    apart = [abs(scores[0][at] - scores[1][at]) / scores[0][at] for at in (1, 2, 3)]
    assert max(apart[0], apart[2]) < 1e-6 < apart[1]  # other pages in one product: the last bit
    alone = Search(many, folder / "a.pdf")
    alone.update()
    assert alone.folder == folder / "a.pdf.index"
    assert [one[1:] for one in ranked(alone)] == [
        (number, pytest.approx(score, rel=1e-6)) for _, number, score in ranked(changed)
    ]


@pytest.mark.slow(beside="search/test_search.py::test_pages_of_a_pdf_each_by_what_they_show")
def test_a_bad_page_of_a_pdf_costs_no_other(tmp_path: Path, many: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page whose object is gone is named, by both kinds of fault; the others have vectors and their own numbers."""
    pytest.importorskip("pypdfium2", reason="pip install 'luvc-export[pdf]'")
    paper = tmp_path / "a.pdf"
    pdf(paper, 1, 2, 3)
    whole = Search(many, paper, tmp_path / "whole")
    whole.update()
    expected = [one for one in ranked(whole) if one[1] != 2]
    intact = paper.read_bytes()
    kids = intact[intact.index(b"/Kids [") : intact.index(b"]", intact.index(b"/Kids ["))]
    paper.write_bytes(intact.replace(kids, kids.replace(b" 3 0 R", b" 9 9 R")))
    for _ in range(2):  # the second time nothing is embedded, and it is named again
        search = Search(many, paper)
        search.update()
        assert ranked(search) == expected and search.errors.keys() == {"a.pdf, page 2"}
        assert "the PDF cannot be read" in search.errors["a.pdf, page 2"] and search.indexed[key_of("a.pdf")].count == 2
    assert search.embedded == 0
    monkeypatch.setattr("luvc_export.search.run.MOST_BAD", 0)
    search = Search(many, paper, tmp_path / "another")
    search.update()
    assert not ranked(search) and search.errors.keys() == {"a.pdf, page 2", "a.pdf"}
    monkeypatch.undo()
    refused, embed_many = UsageError("no such picture", where="test"), many.embed_many

    def embed(images: Any = None, **how: Any) -> Any:
        if any(np.array_equal(np.asarray(one), worst) for one in images):
            raise refused
        return embed_many(images=images, **how)

    paper.write_bytes(intact)
    worst = np.asarray(list(search_pages.pages_of(paper, *search_pages.read_file(paper)))[1].picture)
    monkeypatch.setattr(many, "embed_many", embed)
    search = Search(many, paper, tmp_path / "refused")
    search.update()
    monkeypatch.undo()
    assert ranked(search) == expected and search.errors == {"a.pdf, page 2": "no such picture"}
    paper.write_bytes(intact)
    search.update()
    assert len(ranked(search)) == 3 and search.embedded == 1 and not search.errors


def test_a_pdf_without_its_library_says_what_to_install(
    tmp_path: Path, one: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    pdf(tmp_path / "a.pdf", 1)
    monkeypatch.setattr(search_pages, "find_spec", lambda name: None)
    with pytest.raises(MachineError, match=r"luvc-export\[pdf\]"):
        Search(one, tmp_path / "a.pdf").update()


def test_patches_that_matched_are_drawn(tmp_path: Path, many: Session) -> None:
    """On the right half what no vector of the query is nearest to is dark; another query lights others."""
    height, width = many.size
    noise(1, (height, width)).save(tmp_path / "<i>.png")
    search = Search(many, tmp_path / "<i>.png")
    search.update()
    lit = []
    for text in (QUERY, "x"):
        query = search.query(text)
        (hit,) = search.rank(query, 5)
        page = results_page(search, text, query, [hit])
        nearest = (query @ search.vectors(hit).T).argmax(1)
        rows, columns = many.plan.grid
        wanted = np.isin(np.arange(rows * columns), nearest).reshape(rows, columns)
        from luvc_export.search import page as drawing

        picture, _ = drawing._drawn(search, hit, query)
        half = np.asarray(picture)[:, -drawing._WIDTH :], np.asarray(picture)[:, : drawing._WIDTH]
        same = (half[0] == half[1]).all(-1)
        y, x = (np.array([(2 * at + 1) * side // (2 * count) for at in range(count)]) for side, count in (
            (same.shape[0], rows), (same.shape[1], columns)))  # fmt: skip
        lit.append(same[np.ix_(y, x)])
        assert np.array_equal(lit[-1], wanted) and 0 < wanted.sum() < wanted.size
        assert f"{wanted.sum()} of {wanted.size} patches" in page and "&lt;i&gt;.png" in page and "<i>" not in page
    assert not np.array_equal(*lit)


def test_one_vector_has_no_patches_and_a_page_that_went_is_named(scans: Path, one: Session) -> None:
    search = Search(one, scans)
    search.update()
    query = search.query("<b>")
    hits = search.rank(query, 2)
    assert results_page(search, "<b>", query, hits).count("<figure>") == 2
    (scans / hits[0].name).unlink()
    noise(30).save(scans / hits[1].name)
    page = results_page(search, "<b>", query, hits)
    assert "<b>" not in page and "cannot be read" in page and "has changed since it was embedded" in page


def index_of(search: Search) -> tuple[Path, dict[str, Any]]:
    path = search.folder / "index.json"
    return path, json.loads(path.read_text())


def _other_name(data: dict[str, Any], folder: Path) -> None:
    data["vectors"][0][0] = "../elsewhere/" + data["vectors"][0][0]


def _rewritten(array: Any) -> Callable[[dict[str, Any], Path], None]:
    def change(data: dict[str, Any], folder: Path) -> None:
        name, record = data["vectors"][0]
        np.save(folder / name, array(np.load(folder / name)))
        import hashlib

        raw = (folder / name).read_bytes()
        record |= {"sha256": hashlib.sha256(raw).hexdigest(), "bytes": len(raw)}

    return change


def _linked(data: dict[str, Any], folder: Path) -> None:
    (path,) = folder.glob("*.npy")
    path.rename(folder.with_name("elsewhere.npy"))
    path.symlink_to(folder.with_name("elsewhere.npy"))


def _cut(data: dict[str, Any], folder: Path) -> None:
    (path,) = folder.glob("*.npy")
    path.write_bytes(path.read_bytes()[:-1])


def _place(**fields: int) -> Callable[[dict[str, Any], Path], None]:
    return lambda data, folder: next(iter(data["places"].values())).update(fields)


def _named(name: str) -> Callable[[dict[str, Any], Path], None]:
    return lambda data, folder: data["files"].update({name: next(iter(data["files"].values()))})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_other_name, "a file called"),
        (lambda data, folder: data["vectors"][0].__setitem__(0, "/etc/passwd"), "a file called"),
        (_cut, "bytes"),
        (_linked, "a link"),
        (_rewritten(lambda rows: rows[:, :-1]), "float32"),
        (_rewritten(lambda rows: rows.astype(np.float64)), "float64"),
        (_rewritten(lambda rows: np.array([{}] * len(rows), object)), "object"),
        (_rewritten(lambda rows: rows[:3]), "places"),
        (_rewritten(lambda rows: np.float32(1)), "float32"),
        (_place(first=2**40), "places"),
        (_place(first=-1), "places"),
        (_place(count=0), "places"),
        (_place(count=2**61), "places"),
        (_place(file=7), "places"),
        (_place(file=-1), "places"),
        (_named("../../etc/passwd"), "leaves the folder"),
        (_named("/etc/passwd"), "leaves the folder"),
        (_named("a\\..\\b"), "leaves the folder"),
        (lambda data, folder: data.update(schema=2), "schema 2"),
        (lambda data, folder: data.update(more=1), "unknown"),
        (lambda data, folder: data["origin"].update(numbers="3"), "wrong type"),
    ],
)
def test_an_index_of_a_stranger_s_is_refused(change: Any, says: str, scans: Path, one: Session) -> None:
    search = Search(one, scans)
    search.update()
    path, data = index_of(search)
    change(data, search.folder)
    path.write_text(json.dumps(data))
    before = {each.name: each.read_bytes() for each in search.folder.iterdir()}
    with pytest.raises(LuvcError, match=rf"(not as it was written|no regular file)(.|\n)*{says}"):
        Search(one, scans).update()
    assert {each.name: each.read_bytes() for each in search.folder.iterdir()} == before


def test_a_stale_index_and_a_folder_of_something_else_are_refused(
    scans: Path, one: Session, many: Session, demo_bundle: Bundle
) -> None:
    Search(one, scans).update()
    for session, options, differs in (
        (many, VectorOptions(), "bundle"),
        (one, VectorOptions(embed_dtype="int8"), "embed_dtype int8"),
        (one, VectorOptions(dimensions=16), "numbers 16"),
    ):
        with pytest.raises(UsageError, match=rf"another model or plan(.|\n)*{differs}"):
            Search(session, scans, options=options).update()
    path, data = index_of(Search(one, scans))
    path.write_text(json.dumps(data | {"origin": data["origin"] | {"plan": "lean"}}))
    with pytest.raises(UsageError, match=r"got: plan none(.|\n)*expected: plan lean"):
        Search(one, scans).update()
    path.write_text("{")
    with pytest.raises(UsageError, match="this index is not JSON"):
        Search(one, scans).update()
    path.unlink()
    (path.parent / "my letters").write_text("")
    with pytest.raises(UsageError, match="holds something else"):
        Search(one, scans).update()
    with pytest.raises(UsageError, match="inside the folder of pages"):
        Search(one, scans, scans / "index")
    with pytest.raises(UsageError, match="no pages to search"):
        Search(one, scans / "b & <c>" / "nowhere")
    with pytest.raises(UsageError, match="another task"):
        Search(Session(demo_bundle, "cpu"), scans)
