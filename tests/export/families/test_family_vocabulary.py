"""A head with rows for some tokens: the same logits for those, the same ids everywhere, and which tokens it keeps."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import family_chat
import numpy as np
import pytest
from family_harness import TOLERANCE
from family_questions import questions, small
from PIL import Image
from slow_cases import slow_but
from test_family_answers import chat, pictures
from tokenizers import Tokenizer
from torch import nn
from torch_backend import TorchBackend

from luvc_export import export_bundle
from luvc_export.bundle.folder import Bundle, load
from luvc_export.calibration.parity.run import open_pair, parity
from luvc_export.cli import main
from luvc_export.core.graph_io import ABSENT
from luvc_export.errors import CheckpointError, UsageError
from luvc_export.export import weights
from luvc_export.export.checkpoint import StoredTensor, open_checkpoint
from luvc_export.export.llm.reduced_head import ChosenTokens, needed, reduced, tokens_of_file, tokens_of_texts
from luvc_export.runtime.session import Session

#: A head of its own, and one that is the embedding.
FAMILIES = ("llava", "smolvlm")
LAYERS = 1


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Bundles by family, with some forty tokens beside those that any answer needs."""

    @cache
    def export(name: str) -> Bundle:
        tiny, folder = small(name, LAYERS), tmp_path_factory.mktemp(name)
        checkpoint = str(family_chat.save(tiny, folder / "checkpoint"))
        (folder / "some.json").write_text(json.dumps([*range(150, 190), "<t200>", 255]))
        settings: dict[str, Any] = {"image_size": tiny.size, "text_capacity": 256, "vocab": folder / "some.json"}
        return export_bundle(checkpoint, folder / "bundle", {"none": tiny.plan}, **settings)

    return export


@pytest.mark.parametrize(
    ("name", "backend"), slow_but(["llava"], [("llava", "cpu"), ("llava", "openvino"), ("smolvlm", "cpu")])
)
def test_logits_of_kept_tokens_are_those_of_the_full_head(name: str, backend: str, exported: Any) -> None:
    pytest.importorskip("openvino" if backend == "openvino" else "onnxruntime")
    tiny, bundle = small(name, LAYERS), exported(name)
    ours = Session(bundle, backend, threads=1, arithmetic="fp32")
    full = Session(bundle, TorchBackend(tiny, tiny.plan))
    request = ours.prepare(pictures(tiny, 1), messages=chat(1))
    reduced, expected = (
        way.default.run(request.token_ids, way.default.encode_images(request.images), all_logits=True).logits[0]
        for way in (ours, full)
    )
    kept = (reduced > ABSENT / 2).all(0)
    ids = [int(token) for token in np.flatnonzero(kept)]
    assert {*range(150, 190), 200, 255} <= {*ids} and not {195, 210, 240} & {*ids}
    assert bundle.manifest.head_rows == len(ids) < expected.shape[1] == bundle.manifest.decoder.vocab
    assert np.abs(reduced[:, kept] - expected[:, kept]).max() < TOLERANCE
    assert (reduced[:, ~kept] == ABSENT).all()
    answer = ours.generate(pictures(tiny, 1), messages=chat(1), max_new_tokens=4)
    assert {*answer.token_ids} <= {*ids} and answer.token_ids[0] == ids[int(expected[-1, ids].argmax())]
    assert any("tokens, chosen by some.json" in note for note in ours.notes)


@pytest.mark.slow(beside="export/families/test_family_vocabulary.py::test_which_tokens_are_kept")
@pytest.mark.parametrize("name", slow_but(["llava"], FAMILIES))
def test_the_bundle_holds_the_rows_and_says_so(name: str, exported: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """A head of its own is left out; one that is the embedding stays for the prompts."""
    bundle = exported(name)
    kept, width = bundle.manifest.head_rows, bundle.manifest.decoder.hidden
    checkpoint = open_checkpoint(str(bundle.folder.parent / "checkpoint"))
    whole = sum(-(-tensor.bytes // 4096) * 4096 for tensor in checkpoint.tensors.values())
    rows = -(-kept * width * 4 // 4096) * 4096
    table = 256 * width * 4 if name == "llava" else 0
    assert abs((bundle.folder / "weights").stat().st_size - (whole + rows - table)) < 4096
    assert load(bundle.folder).manifest.vocabulary == bundle.manifest.vocabulary
    stored = json.loads((bundle.folder / "luvc.json").read_text())["vocabulary"]
    assert stored == {"kept": kept, "of": 256, "source": "some.json"}
    picture = bundle.folder.parent / "picture.png"
    Image.fromarray(pictures(small(name, LAYERS), 1)[0]).save(picture)
    asked = ("--image", str(picture), "--prompt", "a", "--max-new-tokens", "1", "--backend", "cpu")
    for words in (("inspect",), ("doctor",), ("run", *asked)) if name == "llava" else ():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["luvc-export", words[0], str(bundle.folder), *words[1:]])
            with pytest.raises(SystemExit) as ended:
                main()
        written = capsys.readouterr()
        assert ended.value.code == 0, written.err
        assert f"{kept} of 256 tokens, chosen by some.json" in " ".join(
            (written.out + written.err).replace("│", " ").split()
        ), words


def test_parity_compares_what_both_heads_have(exported: Any) -> None:
    bundle, asked = exported("llava"), questions("llava", "pictures")
    pair = open_pair(f"hf:{bundle.folder.parent / 'checkpoint'}", f"{bundle.folder}#none", threads=1)
    report = parity(*pair, asked, observe=len(asked), longest=1, retention=0.0)
    assert max(step.rel_l2 for step in report.steps) < 1e-4


def test_rows_of_other_tokens_would_show(exported: Any) -> None:
    """Sabotage: the head's rows one further on."""
    tiny, bundle = small("llava", LAYERS), exported("llava")
    checkpoint = open_checkpoint(str(bundle.folder.parent / "checkpoint"))
    chosen = ChosenTokens((3, 4, 9), "test")
    tensors = weights.stored(tiny.model, checkpoint)
    reduced(weights.skeleton(checkpoint, "fp32"), tensors, chosen.ids, "fp32")
    place = {"lm_head.weight": weights.copy_plan(tensors)["lm_head.weight"]}
    folder = bundle.folder.parent

    def rows(ids: tuple[int, ...]) -> Any:
        scratch = folder / f"rows-{ids[0]}"
        scratch.mkdir()
        changed = replace(tensors["lm_head.weight"], rows=ids)
        weights.write_copy(scratch, {"lm_head.weight": changed}, place, lambda count: None)
        at = place["lm_head.weight"].offset
        return np.frombuffer((scratch / "weights").read_bytes()[at:], np.float32).reshape(3, -1)

    head = tiny.model.lm_head.weight.detach().numpy()
    assert np.array_equal(rows((3, 4, 9)), head[[3, 4, 9]])
    assert not np.array_equal(rows((4, 5, 10)), head[[3, 4, 9]])


def test_which_tokens_are_kept(exported: Any, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(str(exported("llava").folder.parent / "checkpoint"))
    always = needed(checkpoint, Tokenizer.from_file(str(checkpoint.folder / "tokenizer.json")))
    letters = family_chat.tokenizer("llava").encode("aZ", add_special_tokens=False).ids
    assert {*letters, 250} <= always and 200 not in always
    text = tmp_path / "corpus.txt"
    text.write_text("two\n\nlines\n")
    assert {*tokens_of_file(checkpoint, text).ids} == {*always, *family_chat.tokenizer("llava").encode("\n\n").ids}
    few = tokens_of_texts(checkpoint, len(always) + 3, ["\n\n"], ["\n\n\n\n", "a", "a"], "test")
    one = tokens_of_texts(checkpoint, len(always) + 1, ["\n\n"], ["\n\n\n\n"] * 9, "test")
    assert {*one.ids} - always == {*family_chat.tokenizer("llava").encode("\n\n").ids}  # answers come first
    assert len(few.ids) == len(always) + 3
    assert {*family_chat.tokenizer("llava").encode("\n\n").ids} <= {*few.ids} and few.ids == tuple(sorted(few.ids))
    assert min(set(range(256)) - {*few.ids}) > min(set(range(256)) - always)  # filled from the lowest


@pytest.mark.parametrize(
    ("written", "refusal"),
    [
        ("[1, 300]", "names tokens that the model has not(.|\n)*got: 300(.|\n)*0 to 255"),
        ('["<t200>", "nowhere"]', "got: 'nowhere'"),
        ("[true]", "got: True"),
        ("[]", "names no token"),
    ],
)
def test_lists_that_are_refused(written: str, refusal: str, exported: Any, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(str(exported("llava").folder.parent / "checkpoint"))
    path = tmp_path / "list.json"
    path.write_text(written)
    with pytest.raises(UsageError, match=refusal):
        tokens_of_file(checkpoint, path)


@pytest.mark.parametrize(
    ("options", "refusal"),
    [
        ({"vocab": 4, "vocab_data": "DATA"}, r"no reduced vocabulary(.|\n)*which any answer may need\) to 255"),
        ({"vocab": 300, "vocab_data": "DATA"}, "no reduced vocabulary"),
        ({"vocab": 200}, "chosen by data(.|\n)*--vocab N --data"),
        ({"vocab": "x.txt", "vocab_data": "DATA"}, "chosen by data"),
        ({"vocab": "nowhere.txt"}, "there is no such file"),
        ({"vocab": 200, "vocab_data": "nowhere.jsonl"}, "no such cases"),
        ({"vocab": "DATA", "weights": "reference"}, "nowhere but in the bundle"),
    ],
)
def test_what_cannot_be_reduced(options: dict[str, Any], refusal: str, exported: Any, tmp_path: Path) -> None:
    tiny, checkpoint = small("llava", LAYERS), exported("llava").folder.parent / "checkpoint"
    data = tmp_path / "cases.jsonl"
    data.write_text('{"prompt": "two\\n\\nlines", "answer": "a"}\n')
    filled = {key: str(data) if value == "DATA" else value for key, value in options.items()}
    with pytest.raises(UsageError, match=refusal):
        export_bundle(
            str(checkpoint), tmp_path / "out", {"none": tiny.plan}, image_size=tiny.size, text_capacity=64, **filled
        )
    assert not (tmp_path / "out").exists()


def test_the_page_is_its_figures() -> None:
    root = Path(__file__).resolve().parents[3]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(root / "benchmarks/measure"))
        measured: Any = importlib.import_module("vocabulary")
    known = json.loads(measured.PAGE.with_suffix(".json").read_text(encoding="utf-8"))
    halves = [[one for one in known if one["part"] == part] for part in ("answers", "decode")]
    assert measured.PAGE.read_text(encoding="utf-8") == measured.page(*halves)


def test_a_head_that_is_no_matrix_is_refused(exported: Any) -> None:
    checkpoint = open_checkpoint(str(exported("llava").folder.parent / "checkpoint"))
    skeleton = weights.skeleton(checkpoint, "fp32")
    skeleton.model.lm_head = nn.Identity()  # type: ignore[assignment]
    with pytest.raises(CheckpointError, match=r"cannot be reduced(.|\n)*got: Identity"):
        reduced(skeleton, dict[str, StoredTensor](), ChosenTokens((1,), "test"), "fp32")
