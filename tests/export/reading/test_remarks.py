"""What is told at export of a checkpoint that answers otherwise than its makers meant, or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from luvc_export.demo import CHECKPOINT
from luvc_export.errors import CheckpointError
from luvc_export.export.checkpoint import open_checkpoint
from luvc_export.export.reading.remarks import chat_template, remarks

JINJA, CONFIG = "chat_template.jinja", "tokenizer_config.json"
CHAT = [{"role": "user", "content": "2 + 2?"}]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The demo's without a template and without weights."""
    copied = tmp_path / "checkpoint"
    shutil.copytree(CHECKPOINT, copied, ignore=shutil.ignore_patterns("*.safetensors", JINJA))
    write(copied, None)
    return copied


def write(folder: Path, template: object) -> None:
    fields = json.loads((folder / CONFIG).read_text())
    fields.pop("chat_template", None)
    (folder / CONFIG).write_text(json.dumps(fields | ({"chat_template": template} if template else {})))


def notes_of(folder: Path) -> tuple[str, ...]:
    """The remarks; transformers raises where there are some of a template."""
    notes = remarks(open_checkpoint(str(folder), weights=False))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if notes:
        with pytest.raises(Exception, match=r"chat_template|syntax|unexpected|expected|Encountered"):
            tokenizer.apply_chat_template(CHAT, tokenize=False)
    else:
        assert tokenizer.apply_chat_template(CHAT, tokenize=False)
    return notes


def test_none_a_broken_one_and_a_whole_one(folder: Path) -> None:
    (note,) = notes_of(folder)
    assert note.startswith("this checkpoint has no chat template: prompts are taken as they are")
    (folder / JINJA).write_text("{% for message in messages %}{{ message.content }")
    (note,) = notes_of(folder)
    assert note.startswith("the chat template in chat_template.jinja cannot be parsed, so every chat is refused: ")
    (folder / JINJA).write_text("{% for message in messages %}{{ message.content }}{% endfor %}")
    assert notes_of(folder) == ()


def test_a_list_without_a_default_is_refused(folder: Path) -> None:
    write(folder, [{"name": "rag", "template": "R"}, {"name": "tool_use", "template": "T"}])
    refusal = r"none of the chat templates is the default one(.|\n)*'rag', 'tool_use'(.|\n)*\"default\""
    with pytest.raises(CheckpointError, match=refusal):
        chat_template(folder)
    with pytest.raises(ValueError, match="no default"):
        AutoTokenizer.from_pretrained(folder).apply_chat_template(CHAT, tokenize=False)


def test_one_that_is_no_text_is_refused(folder: Path) -> None:
    (folder / JINJA).write_bytes(b"\xff\xfe{{ messages }}")
    with pytest.raises(CheckpointError, match=r"the chat template is not UTF-8(.|\n)*chat_template\.jinja"):
        chat_template(folder)
