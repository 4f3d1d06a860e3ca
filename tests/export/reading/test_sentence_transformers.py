"""Folders of sentence-transformers, read as they lie: both forms of their files, and what is not computed here."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from luvc_export.core.tasks import Embedding
from luvc_export.errors import CheckpointError, UsageError
from luvc_export.export import families
from luvc_export.export.reading import sentence_transformers
from luvc_export.export.reading.sentence_transformers import embedding_of, task_of

CARD = Embedding(prompts={"default": "Represent the user's input."}, default_prompt="default")
FAMILY = families.find("qwen3_vl", "test")
NOW = (
    "sentence_transformers.base.modules.transformer.Transformer",
    "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    "sentence_transformers.base.modules.normalize.Normalize",
)
BEFORE = tuple(f"sentence_transformers.models.{name}" for name in ("Transformer", "Pooling", "Normalize"))


def write(folder: Path, types: tuple[str, ...] = NOW, **files: Any) -> Path:
    paths = ("", "1_Pooling", "2_Normalize", "3_Dense")
    modules = [{"idx": at, "name": str(at), "path": paths[at], "type": kind} for at, kind in enumerate(types)]
    data = {"modules": modules, "pooling": {"embedding_dimension": 64, "pooling_mode": "lasttoken"}} | files
    (folder / "1_Pooling").mkdir()
    names = {"pooling": "1_Pooling/config.json", "settings": "config_sentence_transformers.json"}
    names |= {"modules": "modules.json", "bert": "sentence_bert_config.json"}
    for name, content in data.items():
        (folder / names[name]).write_text(json.dumps(content), encoding="utf-8")
    return folder


def read(folder: Path, sizes: Any = None, **options: Any) -> Embedding:
    family = families.find("qwen3_vl", "test")
    config = family.tiny_config()
    if sizes is not None:
        config.matryoshka_dimensions = sizes
    asked: Any = SimpleNamespace(
        **{
            "task": "embed",
            "debug": False,
            "video": False,
            "vocabulary": None,
            "lora_slots": None,
            "merge_vectors": (1, 1),
        }
        | options
    )
    checkpoint: Any = SimpleNamespace(family=family, folder=folder, config=config, tensors={})
    return embedding_of(checkpoint, asked)


def test_the_folder_says_it_all(tmp_path: Path) -> None:
    """No prompt where it names no default one, and no opening of an answer: nothing is filled in from the card."""
    assert read(write(tmp_path)) == Embedding(generation_prompt=False)
    assert task_of(SimpleNamespace(folder=tmp_path, family=FAMILY), None) == "embed"  # type: ignore[arg-type]
    assert task_of(SimpleNamespace(folder=tmp_path, family=FAMILY), "generate") == "generate"  # type: ignore[arg-type]


def test_older_files_say_the_same(tmp_path: Path) -> None:
    pooling = {"word_embedding_dimension": 64, "pooling_mode_cls_token": False, "pooling_mode_lasttoken": True}
    settings = {"prompts": {"query": "Find it.", "document": ""}, "default_prompt_name": "query"}
    bert = {"max_seq_length": 512, "processing_kwargs": {"chat_template": {"add_generation_prompt": True}}}
    folder = write(tmp_path, BEFORE[:2], pooling=pooling | {"include_prompt": True}, settings=settings, bert=bert)
    assert read(folder, [32, 16, 64]) == Embedding("last", False, settings["prompts"], "query", True, (16, 32, 64))


def test_without_such_files_the_card_says_it(tmp_path: Path) -> None:
    assert read(tmp_path) == CARD
    assert task_of(SimpleNamespace(folder=tmp_path, family=FAMILY), None) == "generate"  # type: ignore[arg-type]


def test_class_paths_are_matched_and_never_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "planted.py").write_text("raise SystemExit('imported')", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(CheckpointError, match="not computed here") as info:
        read(write(tmp_path, ("planted.Transformer", *NOW[1:])))
    assert "planted.Transformer" in str(info.value.got)
    assert not {"sentence_transformers", "planted"} & {*sys.modules}


@pytest.mark.parametrize(
    ("types", "files", "field"),
    [
        ((*NOW, "sentence_transformers.models.Dense"), {}, "type"),
        (NOW[:1], {}, "type"),
        ((NOW[0], NOW[2], NOW[1]), {}, "type"),
        ((NOW[0], "sentence_transformers.cross_encoder.modules.logit_score.LogitScore"), {}, "type"),
        (NOW, {"pooling": {"pooling_mode": "max"}}, "pooling_mode"),
        (NOW, {"pooling": {"pooling_mode": "mean", "include_prompt": False}}, "include_prompt"),
        (NOW, {"pooling": {"pooling_mode_lasttoken": True, "pooling_mode_cls_token": True}}, "pooling_mode"),
        (NOW, {"pooling": {"pooling_mode": "lasttoken", "embedding_dimension": 32}}, "embedding_dimension"),
        (NOW, {"settings": {"prompts": {"query": 3}}}, "prompts"),
        (NOW, {"settings": {"default_prompt_name": "query"}}, "default_prompt_name"),
        (NOW, {"bert": {"processing_kwargs": {"chat_template": {"tools": []}}}}, "chat_template"),
        (NOW, {"modules": [{"type": NOW[0], "path": ""}, {"type": NOW[1], "path": "../1_Pooling"}]}, "path"),
        (NOW, {"modules": [{"type": NOW[0], "path": "0_Transformer"}, {"type": NOW[1], "path": "1_Pooling"}]}, "path"),
        (NOW, {"modules": {"type": NOW[0]}}, "modules.json"),
    ],
)
def test_what_is_not_computed_here_is_refused(
    types: tuple[str, ...], files: dict[str, Any], field: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match="not computed here") as info:
        read(write(tmp_path, types, **files))
    assert field in str(info.value.where)


@pytest.mark.parametrize("sizes", [[0], [65], ["16"], 16, [True]])
def test_sizes_that_are_none(sizes: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not computed here"):
        read(write(tmp_path), sizes)


def test_options_of_answers_and_other_families(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="nothing of this"):
        read(write(tmp_path), debug=True)
    monkeypatch.setattr(type(families.find("qwen3_vl", "test")), "embedding", lambda self, config, task: None)
    with pytest.raises(UsageError, match="does not embed here"):
        read(tmp_path)


def test_every_known_path_is_of_sentence_transformers() -> None:
    """A list that would match others' classes is a defect."""
    assert all(path.startswith("sentence_transformers.") for path in sentence_transformers._KNOWN)


JUDGE = (NOW[0], "sentence_transformers.cross_encoder.modules.logit_score.LogitScore")


def test_a_reranker_names_its_tokens(tmp_path: Path) -> None:
    """The prompt is the model card's, and the task is known by the files."""
    folder = write(tmp_path, JUDGE, pooling={"true_token_id": 9, "false_token_id": 4, "module_input_name": "x"})
    assert task_of(SimpleNamespace(folder=folder, family=FAMILY), None) == "rerank"  # type: ignore[arg-type]
    how = read(folder, task="rerank")
    assert how.labels == (4, 9) and how.width == 1 and how.pair is not None and not how.normalise
    with pytest.raises(CheckpointError, match="not computed here"):
        read(folder)


@pytest.mark.parametrize(
    ("types", "labels", "field"),
    [
        (NOW, {"true_token_id": 9, "false_token_id": 4}, "type"),
        (JUDGE, {"true_token_id": 9}, "false_token_id"),
        (JUDGE, {"true_token_id": "9", "false_token_id": 4}, "true_token_id"),
        (JUDGE, {"true_token_id": -1, "false_token_id": 4}, "true_token_id"),
    ],
)
def test_what_no_reranker_says(types: tuple[str, ...], labels: dict[str, Any], field: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not computed here") as info:
        read(write(tmp_path, types, pooling=labels), task="rerank")
    assert field in str(info.value.where)
