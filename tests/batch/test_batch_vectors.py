"""``batch`` of bundles that decode nothing: vectors are the session's, beside the shards, wherever it is cut."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

sys.path.append(str(Path(__file__).resolve().parents[1] / "export" / "families"))
import many_vectors
import vector_bundles

from luvc_export.batch import parquet
from luvc_export.batch.answerer import Answerer
from luvc_export.batch.job import BatchJob
from luvc_export.batch.pool import Answered
from luvc_export.batch.run import run_batch
from luvc_export.batch.source import Source
from luvc_export.batch.vectors import RowVectors
from luvc_export.bundle.folder import Bundle, load
from luvc_export.core.options import stated
from luvc_export.errors import CheckFailed, MachineError, UsageError
from luvc_export.ray.actor import Answerer as RayAnswerer
from luvc_export.runtime.engine.vector_form import DTYPES, VectorOptions, layout, map_array, pack, unpack
from luvc_export.runtime.session import Session

#: Of int8, float16 and float32, how far one number of a vector of length 1 may be off.
CLOSE = {"float32": 0.0, "float16": 5e-4, "int8": 4.1e-3}


@pytest.fixture(scope="module")
def folders(pytestconfig: pytest.Config) -> Callable[[str], Path]:
    def kept(name: str) -> Path:
        if name in many_vectors.BUNDLES:
            return many_vectors.kept(pytestconfig.cache.mkdir(f"many-{name}"), name) / "bundle"
        return vector_bundles.kept(pytestconfig.cache.mkdir(f"vectors-{name}"), name) / "bundle"

    return kept


class PowerCut(BaseException):
    """Ends a run."""


def fleet(until: int = 100) -> Any:
    """Answers in this process, two rows of a call; cut after ``until`` rows."""

    def answer(job: BatchJob, source: Source, shards: list[int]) -> Iterable[Answered]:
        answerer = Answerer.of(job)
        for index in shards:
            rows = list(source.read(index))
            for row, (name, one) in zip(rows, answerer.answer_lines(rows, source.path, source.folder), strict=True):
                if row.number == until:
                    raise PowerCut
                yield Answered(row.number, name, one)

    return answer


def job(bundle: Path, folder: Path, size: tuple[int, int], texts: bool, **vectors: Any) -> BatchJob:
    """Rows of a picture, a text, where both may be both, a broken picture and what no vector is of."""
    noise = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
    Image.fromarray(noise).save(folder / "page.png")
    (folder / "broken.png").write_bytes(b"\x89PNG no")
    rows: list[dict[str, Any]] = [{"image": "page.png", "id": "a"}, {"prompt": "where?"}, {"image": "broken.png"}]
    rows += [{"image": "page.png", "prompt": "where?" if texts else "", "id": 7}, {"video": "page.png", "prompt": "x"}]
    (folder / "cases.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {"plan": "none", "backend": "cpu", "threads": 1, "shard": 2, "rows": 2}
    form, vectors = vectors.pop("vectors_as", "npy"), stated(VectorOptions(**vectors))
    return BatchJob(bundle, folder / "cases.jsonl", folder / form, vectors=vectors, vectors_as=form, **options)


def read(folder: Path) -> tuple[list[dict[str, Any]], list[Any]]:
    """Lines, and the vectors of each row."""
    lines, vectors = [], []
    for path in sorted(folder.glob("part-*.jsonl")):
        every = np.load(path.with_suffix(".npy"), allow_pickle=False)
        for line in map(json.loads, path.read_text().splitlines()):
            lines.append(line)
            vectors.append(every[line["first"] : line["first"] + line["count"]])
    return lines, vectors


@pytest.mark.parametrize("dtype", ["int8", "binary"])
def test_one_vector_of_each_row_is_the_session_s(dtype: str, folders: Callable[[str], Path], tmp_path: Path) -> None:
    """Cut in the second shard, it goes on there; bad rows have no vector and cost nobody else one."""
    bundle, size = folders("qwen2_vl"), vector_bundles.tiny_of("qwen2_vl").size
    asked = job(bundle, tmp_path, size, True, embed_dtype=dtype, dimensions=32, prompt="document")
    asked.check()
    with pytest.raises(PowerCut):
        run_batch(asked, fleet(3))
    assert [path.name for path in sorted(asked.output.glob("part*"))] == ["part-000000.jsonl", "part-000000.npy"]
    result = run_batch(asked, fleet())
    assert (result.rows, result.resumed, result.errors, result.shards) == (5, 2, 2, 3)
    lines, vectors = read(asked.output)
    assert [(line["row"], line["id"], len(rows)) for line, rows in zip(lines, vectors, strict=True)] == [
        (0, "a", 1), (1, None, 1), (2, None, 0), (3, 7, 1), (4, None, 0),
    ]  # fmt: skip
    assert "not an image" in lines[2]["error"] and "a vector is of pictures and a text" in lines[4]["error"]
    session, page = Session(bundle, "cpu", threads=1), tmp_path / "page.png"
    how: dict[str, Any] = {"prompt": "document", "dimensions": 32}
    inputs: list[dict[str, Any]] = [{"images": [page]}, {"texts": ["where?"]}, {"pairs": [(page, "where?")]}]
    wanted = np.concatenate([session.embed(**one, **how) for one in inputs])
    ours = np.concatenate(vectors)
    if dtype == "binary":
        assert np.array_equal(ours, np.packbits(wanted > 0, -1))
    else:
        assert np.abs(unpack(ours, dtype, 32) - wanted).max() < CLOSE[dtype]
    assert not np.array_equal(ours[0], ours[2]), "a row's prompt does nothing"


@pytest.mark.parametrize("pool", [1, 3])
def test_vectors_of_every_token_stand_one_page_behind_another(
    pool: int, folders: Callable[[str], Path], tmp_path: Path
) -> None:
    bundle, size = folders("every"), many_vectors.tiny().size
    asked = job(bundle, tmp_path, size, False, embed_dtype="float16", pool=pool)
    assert run_batch(asked, fleet()).errors == 2
    _, vectors = read(asked.output)
    session = Session(bundle, "cpu", threads=1)
    wanted = session.embed_many(images=[tmp_path / "page.png"], pool=pool) + session.embed_many(texts=["where?"])
    assert [len(one) for one in vectors] == [len(wanted[0]), len(wanted[1]), 0, len(wanted[0]), 0]
    for ours, theirs in zip(vectors, wanted, strict=False):
        assert ours.dtype == np.float16 and np.abs(ours.astype(np.float32) - theirs).max() < CLOSE["float16"]
    with pytest.raises(UsageError, match="vectors of every token are whole"):
        job(bundle, tmp_path, size, False, dimensions=8).check()


def test_a_shard_whose_vectors_are_not_as_written_is_refused(folders: Callable[[str], Path], tmp_path: Path) -> None:
    """Sabotage: gone, cut, of another shape, a pickle; and options of another kind of bundle, or of another run."""
    asked = job(folders("qwen2_vl"), tmp_path, vector_bundles.tiny_of("qwen2_vl").size, True)
    run_batch(asked, fleet())
    path = asked.output / "part-000000.npy"
    whole = path.read_bytes()
    other, pickled = tmp_path / "other.npy", tmp_path / "pickled.npy"
    np.save(other, np.load(path)[:1])
    np.save(pickled, np.array([{}, {}], object))
    for wrong, says in (
        (whole[:-4], "in 508 bytes"),
        (whole[:40], "header"),
        (other.read_bytes(), "2 vectors in the lines"),
        (pickled.read_bytes(), "object"),
        (None, "No such file"),
    ):
        path.unlink(missing_ok=True)
        if wrong is not None:
            path.write_bytes(wrong)
        with pytest.raises(UsageError, match=rf"not as it was written(.|\n)*{says}"):
            run_batch(asked, fleet())
    path.write_bytes(whole)
    assert run_batch(asked, fleet(0)).resumed == 5
    object.__setattr__(asked, "vectors", {"embed_dtype": "int8"})
    with pytest.raises(UsageError, match=r'vectors \{"embed_dty'):
        run_batch(asked, fleet())


def test_parquet_holds_what_npy_does(folders: Callable[[str], Path], tmp_path: Path) -> None:
    """The same vectors with their rows and ids, cut and gone on with; a file that is not as written is refused."""
    arrays = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed (luvc-export[parquet])")
    pages = folders("every"), tmp_path, many_vectors.tiny().size, False
    plain, asked = (job(*pages, embed_dtype="int8", vectors_as=form) for form in ("npy", "parquet"))
    asked.check()
    run_batch(plain, fleet())
    with pytest.raises(PowerCut):
        run_batch(asked, fleet(3))
    assert [path.name for path in sorted(asked.output.glob("part*"))] == ["part-000000.jsonl", "part-000000.parquet"]
    assert run_batch(asked, fleet()).resumed == 2
    lines, vectors = read(plain.output)
    files = sorted(asked.output.glob("*.parquet"))
    assert [path.with_suffix(".jsonl").read_bytes() for path in files] == [
        (plain.output / path.name).with_suffix(".jsonl").read_bytes() for path in files
    ]
    owned = [(line["row"], None if line["id"] is None else str(line["id"])) for line in lines]
    wanted = [
        {"row": row, "id": name, "at": at, "vector": one["values"].tolist(), "scale": one["scale"]}
        for (row, name), mine in zip(owned, vectors, strict=True)
        for at, one in enumerate(mine)
    ]
    assert [one for path in files for one in arrays.read_table(path).to_pylist()] == wanted and len(wanted) > 5
    whole = files[0].read_bytes()
    for wrong, says in ((whole[:-4], "footer"), (files[1].read_bytes(), "in the lines"), (None, "No such file")):
        files[0].unlink(missing_ok=True)
        if wrong is not None:
            files[0].write_bytes(wrong)
        with pytest.raises(UsageError, match=rf"not as it was written(.|\n)*{says}"):
            run_batch(asked, fleet())
    files[0].write_bytes(whole)
    assert run_batch(asked, fleet(0)).resumed == 5
    object.__setattr__(plain, "output", asked.output)
    with pytest.raises(UsageError, match=r'something else(.|\n)*vectors_as null(.|\n)*vectors_as "parquet"'):
        run_batch(plain, fleet())


@pytest.mark.parametrize("dtype", DTYPES)
def test_parquet_is_hardly_larger_than_its_vectors(dtype: str) -> None:
    """Left to itself Arrow writes floats twice, and without a dictionary four bytes for each of int8."""
    pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed (luvc-export[parquet])")
    vectors = pack(np.random.default_rng(0).normal(size=(500, 256)).astype(np.float32), dtype)
    parquet.write(file := io.BytesIO(), vectors, [(0, "a", 500)])
    assert len(file.getvalue()) < 1.1 * vectors.nbytes + 10_000


@pytest.mark.parametrize("dtype", DTYPES)
def test_parquet_of_every_form(dtype: str, tmp_path: Path) -> None:
    arrays = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed (luvc-export[parquet])")
    vectors = pack(np.random.default_rng(0).normal(size=(3, 12)).astype(np.float32), dtype)
    with (tmp_path / "x.parquet").open("wb") as file:
        parquet.write(file, vectors, [(4, 7, 2), (5, None, 0), (6, "b", 1)])
    table = arrays.read_table(tmp_path / "x.parquet")
    assert table["row"].to_pylist() == [4, 4, 6] and table["id"].to_pylist() == ["7", "7", "b"]
    values = np.array(table["vector"].to_pylist(), layout(dtype, 12)[0] if dtype != "int8" else np.int8)
    assert np.array_equal(values, vectors["values"] if dtype == "int8" else vectors)
    other = "float16" if dtype == "float32" else "float32"
    with (tmp_path / "x.parquet").open("rb") as file:
        parquet.check(file, 3, *layout(dtype, 12))
        for count, kind, numbers in ((2, dtype, 12), (3, other, 12), (3, dtype, 24)):
            with pytest.raises(ValueError, match=rf"3 vectors of row int64, (.|\n)*{count} vectors in the lines"):
                parquet.check(file, count, *layout(kind, numbers))
    whole = (tmp_path / "x.parquet").read_bytes()
    with pytest.raises(ValueError, match=r"bytes of vectors, the footer says \d"):  # cut in the middle
        parquet.check(io.BytesIO(whole[:20] + whole[60:]), 3, *layout(dtype, 12))


def test_parquet_of_half_a_surrogate_pair_and_of_no_vectors(tmp_path: Path) -> None:
    """The id is escaped as in the lines; other rows stay."""
    arrays = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed (luvc-export[parquet])")
    parquet.write(file := io.BytesIO(), np.zeros((2, 4), np.float32), [(0, "\ud800a", 1), (1, "é", 1)])
    assert arrays.read_table(file)["id"].to_pylist() == ["\\ud800a", "é"]
    parquet.write(nothing := io.BytesIO(), np.zeros((0, 4), np.float32), [(0, "a", 0)])
    parquet.check(nothing, 0, np.dtype(np.float32), (4,))


def test_a_damaged_parquet_footer_is_refused_by_the_file_s_name(
    folders: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arrow's own errors, of which some are no ValueError."""
    arrays = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed (luvc-export[parquet])")
    errors = pytest.importorskip("pyarrow")

    def damaged(file: Any) -> Any:
        raise errors.ArrowNotImplementedError("no such type")

    vectors = RowVectors(load(folders("qwen2_vl"), task=None), {}, "parquet")
    lines = tmp_path / "part-000000.jsonl"
    vectors.path(lines).write_bytes(b"x")
    for says in (r"part-000000\.parquet: .*footer", r"part-000000\.parquet: no such type"):
        with pytest.raises(ValueError, match=says):
            vectors.check(lines, 1)
        monkeypatch.setattr(arrays, "ParquetFile", damaged)


def test_parquet_without_pyarrow_is_refused_before_any_work(
    folders: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "find_spec", lambda name: None)
    asked = job(folders("qwen2_vl"), tmp_path, vector_bundles.tiny_of("qwen2_vl").size, True, vectors_as="parquet")
    with pytest.raises(
        MachineError, match=r"pyarrow, which is not installed(.|\n)*pip install 'luvc-export\[parquet\]'"
    ):
        asked.check()


def test_options_of_the_other_kind_of_bundle_are_refused(
    folders: Callable[[str], Path], demo_bundle: Bundle, tmp_path: Path
) -> None:
    embeds, size = folders("qwen2_vl"), vector_bundles.tiny_of("qwen2_vl").size
    asked = job(embeds, tmp_path, size, True)
    object.__setattr__(asked, "sampling", {"max_new_tokens": 3})
    with pytest.raises(UsageError, match=r"nothing is decoded(.|\n)*max_new_tokens"):
        asked.check()
    with pytest.raises(UsageError, match="one vector of a page is not merged"):
        job(embeds, tmp_path, size, True, pool=2).check()
    with pytest.raises(UsageError, match="may not be cut"):
        job(embeds, tmp_path, size, True, dimensions=20).check()
    with pytest.raises(UsageError, match=r"writes text, and no vectors(.|\n)*embed_dtype"):
        job(demo_bundle.folder, tmp_path, size, True, embed_dtype="int8").check()
    with pytest.raises(UsageError, match=r"writes text, and no vectors(.|\n)*vectors_as: parquet"):
        job(demo_bundle.folder, tmp_path, size, True, vectors_as="parquet").check()
    with pytest.raises(UsageError, match="another task"):  # a Dataset's rows are questions
        RayAnswerer(str(embeds), backend="cpu", threads=1)


def test_forms_of_vectors_lose_what_their_bits_say() -> None:
    vectors = np.random.default_rng(1).normal(size=(5, 12)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    vectors[4] = 0
    for dtype in DTYPES:
        packed = pack(vectors, dtype)
        kind, tail = layout(dtype, 12)
        assert (packed.dtype, packed.shape) == (kind, (5, *tail))
        if dtype == "binary":
            assert np.array_equal(unpack(packed, dtype, 12) > 0, vectors > 0)
            assert np.abs(np.linalg.norm(unpack(packed, dtype, 12), axis=-1) - 1).max() < 1e-6
        else:
            assert np.abs(unpack(packed, dtype, 12) - vectors).max() <= CLOSE[dtype]
    assert np.abs(pack(vectors * 3, "int8")["values"][:4]).max(-1).tolist() == [127] * 4
    with pytest.raises(CheckFailed, match=r"does not fit float16(.|\n)*70000"):
        pack(np.full((1, 2), 7e4, np.float32), "float16")
    with pytest.raises(UsageError, match="did you mean 'int8'"):
        pack(vectors, "int4")


def test_an_empty_file_of_vectors_is_one(tmp_path: Path) -> None:
    for shape in ((0, 3), (2, 0)):
        np.save(tmp_path / "x.npy", np.zeros(shape, np.float32))
        assert map_array(tmp_path / "x.npy").shape == shape
