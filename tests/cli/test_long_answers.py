"""Answers of thousands of tokens: a page's tables, LaTeX and Markdown arrive unchanged, or a cut is said."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cli_words import Cli
from onnx import TensorProto, helper, numpy_helper

from luvc_export.batch.answerer import Answerer
from luvc_export.batch.job import BatchJob
from luvc_export.batch.pool import Answered
from luvc_export.batch.run import run_batch
from luvc_export.batch.source import Source
from luvc_export.bundle import folder as bundles
from luvc_export.bundle.folder import Bundle
from luvc_export.runtime.generation.detokenise import TextStream

sys.path.insert(0, str(Path(__file__).parents[1] / "runtime"))
import tiny_bundle

#: Lines no two of which are alike, so that none may be lost or come twice; a token is a byte of it.
LINE = "| {0} | $\\frac{{{0}}}{{\\alpha_{{{0}}}}}$ | **{0}** `a|b` <td>\t你好 \U0001f600 é\x1b[3{0}m |\r\n"
PAGE = "# Page\n\n|---|:-:|---:|\n" + "".join(LINE.format(number) for number in range(30))
TOKENS = len(PAGE.encode())
#: Tokens after which the answer is cut, and of a prompt whose answer ends before.
CUT, LATER = 2040, 2150


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny bundle, whose token at position n is byte n of the page whatever stands before it."""
    folder = tmp_path_factory.mktemp("pages") / "bundle"
    written = tiny_bundle.write(folder, context=2 * TOKENS)
    path = folder / "decoder.onnx"
    model = onnx.load(path, load_external_data=False)
    page = [*tiny_bundle.tokenizer().encode(PAGE).ids, *[tiny_bundle.END_TOKEN] * TOKENS]
    arrays = {"tokens": np.array(page), "row": np.array(0), "first": np.array([0])}
    arrays |= {"logits": np.eye(tiny_bundle.VOCAB, dtype=np.float32)}
    model.graph.initializer.extend(numpy_helper.from_array(value, f"page.{name}") for name, value in arrays.items())
    model.graph.node[-1 - [node.output[0] for node in reversed(model.graph.node)].index("logits")].output[0] = "unread"
    for kind, inputs, output, more in (
        ("Gather", ["position_ids", "page.row"], "page.times", {"axis": 0}),
        ("Cast", ["page.times"], "page.positions", {"to": TensorProto.INT64}),
        ("Squeeze", ["logits_indices", "page.first"], "page.last", {}),
        ("Gather", ["page.positions", "page.last"], "page.chosen", {"axis": 1}),
        ("Gather", ["page.tokens", "page.chosen"], "page.token", {"axis": 0}),
        ("Gather", ["page.logits", "page.token"], "logits", {"axis": 0}),
    ):
        model.graph.node.append(helper.make_node(kind, inputs, [output], **more))
    path.write_bytes(model.SerializeToString())
    manifest = replace(
        written.manifest,
        prompt=replace(written.manifest.prompt, text_capacity=2 * TOKENS),
        files={**written.manifest.files, path.name: bundles.record(path)},
    )
    bundles.write_manifest(folder, manifest)
    return bundles.load(folder)


def here(job: BatchJob, source: Source, shards: list[int]) -> Iterator[Answered]:
    """A worker of this process; tests/batch has those of their own."""
    answerer = Answerer.of(job)
    for shard in shards:
        rows = [*source.read(shard)]
        answers = answerer.answer_lines(rows, source.path, source.folder)
        yield from (Answered(row.number, *one) for row, one in zip(rows, answers, strict=True))


def batch(bundle: Bundle, folder: Path, fleet: Any, cut: int = CUT) -> None:
    """Have a batch of two rows answered: one is cut, one begins further on and ends before."""
    folder.mkdir()
    (folder / "cases.jsonl").write_text("".join(json.dumps({"prompt": "?" * size}) + "\n" for size in (1, LATER)))
    options: dict[str, Any] = {"backend": "cpu", "threads": 1, "sampling": {"max_new_tokens": cut}}
    run_batch(BatchJob(bundle.folder, folder / "cases.jsonl", folder / "out", **options), fleet)
    rows = [json.loads(line) for path in (folder / "out").glob("part-*") for line in path.read_text().splitlines()]
    assert [row["finish_reason"] for row in rows] == ["length", "stop"], rows
    assert [row["tokens"] for row in rows] == [cut, TOKENS + 2 - LATER]
    assert [row["text"].encode() for row in rows] == [PAGE.encode()[:cut], PAGE.encode()[LATER - 1 :]]


def run(cli: Cli, bundle: Bundle, page: Path, *more: object) -> str:
    """Have the page written to a file; what is said beside it."""
    words = ("--prompt", "?", "--backend", "cpu", "--threads", 1, "--output", page)
    code, out, err = cli("run", bundle.folder, *words, *more)
    assert code == 0 and not out, err
    return err


@pytest.mark.slow(beside="runtime/generation/test_guided.py::test_an_answer_is_never_cut_and_called_complete")
def test_a_page_is_written_as_it_was_answered(cli: Cli, bundle: Bundle, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    assert "cut after" not in run(cli, bundle, page)
    assert page.read_bytes() == PAGE.encode()
    batch(bundle, tmp_path / "batch", here)


@pytest.mark.slow(beside="runtime/generation/test_guided.py::test_an_answer_is_never_cut_and_called_complete")
def test_a_token_that_gets_lost_on_the_way_is_seen(
    cli: Cli, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind the first two thousand in the file, and in a row."""
    real = TextStream._release

    def forgets(self: TextStream, new: str, final: bool) -> str:
        return real(self, new * (len(self._ids) not in (41, 2001)), final)

    monkeypatch.setattr(TextStream, "_release", forgets)
    beside = run(cli, bundle, tmp_path / "page.md", "--max-new-tokens", CUT)
    assert f"cut after {CUT} tokens, the answer goes on: --max-new-tokens" in beside
    whole = PAGE.encode()
    assert (tmp_path / "page.md").read_bytes() == whole[:40] + whole[41:2000] + whole[2001:CUT]
    with pytest.raises(AssertionError, match="At index 0 diff"):
        batch(bundle, tmp_path / "batch", here, 200)
