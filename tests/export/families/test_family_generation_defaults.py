"""``generation_config.json``: answers are what ``model.generate`` gives; parity compares greedy ones all the same."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import family_chat
import numpy as np
import pytest
import torch
from family_harness import Case, case
from test_family_answers import chat, pictures
from torch_backend import TorchBackend
from transformers import GenerationConfig

from luvc_export.bundle.folder import Bundle, record
from luvc_export.bundle.manifest import Manifest, PlanEntry
from luvc_export.calibration.runners.huggingface import HuggingFace
from luvc_export.core.generation_defaults import GenerationDefaults
from luvc_export.errors import BundleError, CheckpointError
from luvc_export.export.checkpoint import Checkpoint, open_checkpoint
from luvc_export.export.exported_manifest import generation_defaults, make_manifest
from luvc_export.export.options import Options
from luvc_export.runtime.prompt.case_lines import FileCase
from luvc_export.runtime.session import Session

STATED = {
    "eos_token_id": [2],
    "do_sample": False,
    "repetition_penalty": 1.4,
    "no_repeat_ngram_size": 3,
    "min_new_tokens": 12,
    "forced_eos_token_id": 2,
    "max_new_tokens": 16,
}


def checkpoint(tiny: Case, folder: Path, stated: dict[str, Any]) -> Checkpoint:
    family_chat.save(tiny, folder)
    (folder / "generation_config.json").write_text(json.dumps(stated), encoding="utf-8")
    return open_checkpoint(str(folder))


def manifest(tiny: Case, opened: Checkpoint) -> Manifest:
    files = {path.name: record(path) for path in opened.folder.iterdir() if path.suffix != ".safetensors"}
    entry = PlanEntry(tiny.plan, "", "", size=tiny.size, precision="fp32")
    return make_manifest(opened, Options(tiny.size), {"plan": entry}, "copy", {}, set(), files)


def asked_of_transformers(tiny: Case, shown: list[Any], meant: GenerationConfig, **options: Any) -> list[int]:
    inputs = family_chat.ask(tiny, family_chat.processor(tiny), chat(len(shown)), shown)
    kept, tiny.model.generation_config = tiny.model.generation_config, meant
    if hasattr(tiny.model.model, "rope_deltas"):
        tiny.model.model.rope_deltas = None
    try:
        with torch.no_grad():
            out = tiny.model.generate(**inputs, pad_token_id=0, **options)
    finally:
        tiny.model.generation_config = kept
    return [int(token) for token in out[0, inputs["input_ids"].shape[1] :]]


@pytest.mark.parametrize("name", ["qwen2_5_vl", "gemma3"])
def test_answers_are_those_of_generate(name: str, tmp_path: Path) -> None:
    tiny = case(name)
    shown = pictures(tiny, 1)
    free = asked_of_transformers(tiny, shown, GenerationConfig(eos_token_id=2), max_new_tokens=16)
    words = {"bad_words_ids": [[free[0]], [free[3], free[4]]], "suppress_tokens": [free[1]]}
    opened = checkpoint(tiny, tmp_path, {**STATED, **words, "begin_suppress_tokens": [free[2]]})
    ours = Session(Bundle(tmp_path, manifest(tiny, opened)), TorchBackend(tiny, tiny.plan))
    meant = GenerationConfig.from_pretrained(tmp_path)
    wanted = asked_of_transformers(tiny, shown, meant)
    answer = ours.generate(shown, messages=chat(1))
    assert list(answer.token_ids) == wanted and len(wanted) == 16 and wanted[-1] == 2
    assert wanted[:5] != free[:5]
    rows = ours.generate_batch([{"image": shown, "messages": chat(1)}] * 2)
    assert [list(row.token_ids) for row in rows] == [wanted, wanted]
    longest = {"max_new_tokens": 16}
    plain = ours.generate(shown, messages=chat(1), greedy=True, **longest)
    assert list(plain.token_ids) == free
    # temperature 0 draws nothing, and leaves the penalties where they are
    assert list(ours.generate(shown, messages=chat(1), temperature=0.0).token_ids) == wanted


def test_bundles_of_before_are_greedy(tmp_path: Path) -> None:
    tiny = case("qwen2_5_vl")
    own = manifest(tiny, checkpoint(tiny, tmp_path, STATED))
    data = own.to_json()
    del data["generation"]
    before = Manifest.from_json(data, "luvc.json")
    assert before.generation is None and own.generation is not None
    assert Manifest.from_json(own.to_json(), "luvc.json") == own
    session = Session(Bundle(tmp_path, before), TorchBackend(tiny, tiny.plan))
    assert session.sampling({}).takes_the_best
    for name, value in (("repetition_penalty", 0), ("top_p", float("nan")), ("bad_words_ids", [[-1]])):
        with pytest.raises(BundleError, match="beyond its limits"):
            Manifest.from_json({**own.to_json(), "generation": {name: value}}, "luvc.json")


def test_parity_is_greedy_whatever_the_makers_meant(tmp_path: Path) -> None:
    """Transformers' side must not follow a penalty, nor draw, nor keep the answer short."""
    tiny = case("qwen2_5_vl")
    stated = {**STATED, "do_sample": True, "temperature": 5.0, "repetition_penalty": 9.0, "suppress_tokens": [5]}
    opened = checkpoint(tiny, tmp_path, stated)
    model = tiny.model
    kept, model.generation_config = model.generation_config, GenerationConfig.from_pretrained(tmp_path)
    try:
        meant = model.generation_config
        runner = HuggingFace(opened, model, manifest(tiny, opened), "fp32")
        rng = np.random.default_rng(0)
        image = rng.integers(0, 256, (*tiny.size, 3)).astype(np.uint8)
        answer = runner.answer([FileCase(prompt="2 + 2?", images=(image,))], 8)[0]
        assert model.generation_config is meant, "and it is as before"
    finally:
        model.generation_config = kept
    session = Session(Bundle(tmp_path, manifest(tiny, opened)), TorchBackend(tiny, tiny.plan))
    assert answer.tokens == session.generate(image, "2 + 2?", greedy=True, max_new_tokens=8).token_ids


def test_what_a_file_says_is_read_as_transformers_reads_it(tmp_path: Path) -> None:
    tiny = case("llava")
    opened = checkpoint(tiny, tmp_path, {"do_sample": True, "temperature": 0.1, "num_beams": 4, "min_length": 0})
    wanted = GenerationDefaults(temperature=0.1, top_k=50, unsupported=("num_beams",))
    assert generation_defaults(opened) == wanted
    for stated in ({"temperature": 0.1, "top_k": 1}, {}, {"repetition_penalty": None}):
        (tmp_path / "generation_config.json").write_text(json.dumps(stated), encoding="utf-8")
        assert generation_defaults(opened) == GenerationDefaults(), "without do_sample nothing is drawn"
    (tmp_path / "generation_config.json").unlink()
    assert generation_defaults(opened) == GenerationDefaults()
    for wrong in ({"repetition_penalty": "1.1"}, {"bad_words_ids": [3]}, {"bad_words_ids": [[]]}, {"top_k": 10**12}):
        (tmp_path / "generation_config.json").write_text(json.dumps({"do_sample": True, **wrong}), encoding="utf-8")
        with pytest.raises(CheckpointError, match=r"generation_config\.json|generation config|bad word"):
            generation_defaults(opened)
    assert dataclasses.is_dataclass(wanted)
