"""Packs of bundles that embed: vectors in the place of answers, verified on a board's root with ONNX Runtime."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jetson_root
import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "export" / "families"))
import many_vectors
import vector_bundles

from luvc_export.bundle.folder import Bundle, load
from luvc_export.calibration.parity.tolerances import tolerances
from luvc_export.cli import main
from luvc_export.errors import UsageError
from luvc_export.packing import cases, questions, record
from luvc_export.packing.answer import Answer, answer, compare_answers
from luvc_export.packing.questions import PackCases
from luvc_export.packing.write import Packed, write_pack
from luvc_export.runtime.session import Session

TARGET = jetson_root.TARGETS["6.2"]


def generated(session: Session, capacity: Any) -> PackCases:
    return PackCases(
        "generated", questions.generated(session.size, 2 if session.bundle.manifest.task == "embed-many" else 3)
    )


def folder_of(pytestconfig: pytest.Config, name: str) -> Path:
    if name in many_vectors.BUNDLES:
        return many_vectors.kept(pytestconfig.cache.mkdir(f"many-{name}"), name) / "bundle"
    return vector_bundles.kept(pytestconfig.cache.mkdir(f"vectors-{name}"), name) / "bundle"


@pytest.fixture(scope="module", params=["qwen2_vl", "every"])
def packed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Packed, Session]:
    bundle = load(folder_of(request.config, request.param), task=None)
    pack = write_pack(bundle, TARGET, tmp_path_factory.mktemp("packs") / request.param, generated, "none")
    return pack, Session(bundle, "cpu", "none", threads=1)


def test_a_pack_holds_the_session_s_vectors_and_passes(
    packed: tuple[Packed, Session], tmp_path: Path, board: Path, verify: Callable[..., Any]
) -> None:
    """Of pictures with their text, or where the model reads each by itself, of both; a damaged reference fails."""
    pack, session = packed
    stored, every = cases.read(pack.folder), session.bundle.manifest.does.pooling == "every"
    assert [(len(one.pictures), bool(one.prompt)) for one in stored] == (
        [(1, False), (0, True)] * 2 if every else [(1, True), (1, False), (0, True)]
    )
    for one in stored:
        page = one.pictures[0] if one.pictures else None
        if every:
            (wanted,) = session.embed_many(**({"images": [page]} if page else {"texts": [one.prompt]}))
        else:
            both = {"images": [page], "texts": [one.prompt], "pairs": [(page, one.prompt)]}
            name = "pairs" if page and one.prompt else "images" if page else "texts"
            wanted = session.embed(**{name: both[name]})
        assert one.answer.token_ids == () and np.abs(one.answer.logits - wanted).max() < 1e-5
    assert load(pack.folder, task=None).manifest.task == session.bundle.manifest.task
    assert pack.pack.capacity.logits == (pack.pack.text_capacity if every else 1)
    copy = Path(shutil.copytree(pack.folder, tmp_path / "pack"))
    code, out, err = verify(copy, board)
    assert (code, err) == (0, ""), out
    assert f"PASSED: {len(stored)} of {len(stored)} cases" in out and "vectors " in out and "KL" not in out
    (signed,) = load(copy, task=None).manifest.verified
    assert 0 < signed.figures["worst_rel_l2"] < 2e-2 and not {"worst_kl", "least_tokens"} & {*signed.figures}
    with np.load(copy / "cases" / "reference.npz") as arrays:
        damaged = {name: np.roll(array, 1, -1) if name == "1.logits" else array for name, array in arrays.items()}
    np.savez(copy / "cases" / "reference.npz", **damaged)
    read = cases.read(copy)[1].answer
    verdict = compare_answers(read, stored[1].answer, tolerances("fp32", "fp16"))
    assert not verdict.passed and "vectors differ by" in verdict.reasons[0] and "cosine" in verdict.reasons[1]


def test_what_differs_is_judged_by_the_vectors(packed: tuple[Packed, Session]) -> None:
    """Sabotage: NaN, a scale, another shape, another prompt; one kept token may be another where the cosine holds."""
    pack, session = packed
    own, limits = cases.read(pack.folder)[0].answer, tolerances("fp32", "fp16")
    assert compare_answers(own, own, limits).passed
    nothing = np.full_like(own.logits, np.nan)
    for wrong in (own.logits * 1.1, nothing, own.logits[:, :-1]):
        assert not compare_answers(own, replace(own, logits=wrong), limits).passed
    assert not compare_answers(own, replace(own, prompt_ids=own.prompt_ids[1:]), limits).passed
    one, other = ({1: np.array([[0, 1, last]])} for last in (2, 3))
    for scale, passed in ((1.05, True), (1 / 1.05, True), (1.2, False), (1 / 1.2, False), (np.nan, False)):
        swapped = replace(own, logits=own.logits * scale, kept=other)
        assert compare_answers(replace(own, kept=one), swapped, limits).passed is passed
    assert record.read(pack.folder).cases == "generated"
    assert answer(session, [], "x", 1).logits.shape[1] == own.logits.shape[1]


def page(seed: int = 0, kept: Any = None) -> Answer:
    """A case of one picture and two text tokens with a vector each, of length 1."""
    kept = np.arange(9000)[None] if kept is None else np.array(kept)
    of_tokens = np.random.default_rng(7).normal(size=(9000, 16))[kept[0]]
    rows = np.concatenate([of_tokens, np.random.default_rng(seed).normal(size=(2, 16))]).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return Answer((9, 1, 2), (), "", rows, {2: kept})


@pytest.mark.parametrize("row", [0, 3000, 9001])
def test_one_wrong_vector_of_thousands_fails(row: int) -> None:
    """Sabotage: it is another's, it is turned a little, and it is scaled; all together are within their limits."""
    whole, limits = page(), tolerances("fp16")
    for wrong, says in (
        (whole.logits[row - 1], f"the cosine of vector {row + 1} of 9002"),
        (whole.logits[row] + 0.1 * whole.logits[row - 1], f"the cosine of vector {row + 1} of 9002"),
        (whole.logits[row] * 1.2, f"the length of vector {row + 1} of 9002"),
        (whole.logits[row] * 0.8, f"the length of vector {row + 1} of 9002"),
    ):
        rows = whole.logits.copy()
        rows[row] = wrong
        verdict = compare_answers(whole, replace(whole, logits=rows), limits)
        assert [one.startswith(says) for one in verdict.reasons] == [True], verdict.reasons
    noise = np.random.default_rng(1).normal(size=whole.logits.shape).astype(np.float32)
    assert compare_answers(whole, replace(whole, logits=whole.logits + 0.004 * noise), limits).passed


def test_vectors_of_other_kept_tokens_are_not_held_against_each_other() -> None:
    """One kept token is another: its vector is, and those between them move a place; the others are held."""
    own, other = ([[*range(3), *range(4, 400)]], [[*range(300), *range(301, 400)]])
    first, second = page(kept=own), page(kept=other)
    limits = tolerances("fp16")
    assert compare_answers(first, second, limits).passed
    assert not compare_answers(first, replace(second, kept=first.kept), limits).passed
    wrong = second.logits.copy()
    wrong[10] = wrong[11]
    (reason,) = compare_answers(first, replace(second, logits=wrong), limits).reasons
    assert "the cosine of vectors is 0.99" in reason


def test_a_file_s_picture_needs_a_text_only_where_something_is_decoded(
    pytestconfig: pytest.Config,
    demo_bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    chosen: list[Any] = []

    class Written(BaseException):
        pass

    def written(bundle: Bundle, target: str, output: Path, choose: Any, *rest: Any, **settings: Any) -> None:
        chosen.extend(choose(None, None).cases)
        raise Written

    monkeypatch.setattr("luvc_export.packing.write.write_pack", written)
    (tmp_path / "p.png").write_bytes(b"x")
    (tmp_path / "cases.jsonl").write_text('{"image": "p.png"}\n')
    for bundle, ended in ((folder_of(pytestconfig, "qwen2_vl"), Written), (demo_bundle.folder, SystemExit)):
        words = ("pack", str(bundle), "--target", TARGET, "-o", str(tmp_path / "pack"))
        monkeypatch.setattr(sys, "argv", ["luvc-export", *words, "--cases", str(tmp_path / "cases.jsonl")])
        with pytest.raises(ended):
            main()
    assert [(one.images, one.prompt) for one in chosen] == [((tmp_path / "p.png",), "")]
    assert "a case needs a prompt" in capsys.readouterr().err


def test_a_pack_of_pairs_is_refused(pytestconfig: pytest.Config, tmp_path: Path) -> None:
    bundle = load(folder_of(pytestconfig, "reranker"), task=None)
    with pytest.raises(UsageError, match=r"a bundle of the task rerank(.|\n)*one of the task embed"):
        write_pack(bundle, TARGET, tmp_path / "pack", generated, "none")
    assert not (tmp_path / "pack").exists()
