"""Texts as Windows' editors save them: the mark before them is in no prompt, and loses no row."""

from __future__ import annotations

import json
import sys
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest
from PIL import Image

from luvc_export.batch.source import list_folder, open_source
from luvc_export.bundle.folder import Bundle
from luvc_export.calibration.cases import read_jsonl
from luvc_export.calibration.datasets import load
from luvc_export.cli.commands.run import read_prompt
from luvc_export.core.files.json_file import read_json
from luvc_export.core.files.template_source import CONFIG, template_source
from luvc_export.core.files.text import decoded, read_text
from luvc_export.errors import BundleError, UsageError
from luvc_export.export.synthetic.presets import find
from luvc_export.runtime.generation.sampling import read_schema
from luvc_export.runtime.prompt.template import load_template

MARK = b"\xef\xbb\xbf"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two pictures, and a prompt beside each."""
    for index, name in enumerate("ab"):
        Image.new("RGB", (8, 8), (90 * index, 0, 0)).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_bytes(MARK + b"What is it?\r\nSay so.")
    return tmp_path


@pytest.mark.parametrize("coding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_text_in_any_coding(tmp_path: Path, coding: str) -> None:
    (tmp_path / "a.txt").write_bytes("Wo ist die T\u00fcr?\r\nDa.\r".encode(coding))
    assert read_text(tmp_path / "a.txt", UsageError, "the prompt") == "Wo ist die T\u00fcr?\nDa.\n"


def test_what_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    with pytest.raises(UsageError, match=r"the prompt is no text(.|\n)*a\.txt(.|\n)*save it as UTF-8"):
        read_text(tmp_path / "a.txt", UsageError, "the prompt")
    assert read_text(tmp_path / "a.txt", UsageError, "the prompt", errors="replace") == "caf\ufffd"
    with pytest.raises(UsageError, match="the prompt is too large"):
        read_text(tmp_path / "a.txt", UsageError, "the prompt", most=3)
    with pytest.raises(UsageError, match="the prompt cannot be read"):
        read_text(tmp_path / "b.txt", UsageError, "the prompt")


def test_json_of_all_kinds(tmp_path: Path) -> None:
    """Schemas, configs, templates: parsers of JSON refuse the mark."""
    file = tmp_path / "a.json"
    file.write_bytes(MARK + b'{"chat_template": "T"}')
    assert read_json(file, 100, UsageError, "the file") == read_schema(file) == {"chat_template": "T"}
    source = template_source(lambda name: file.read_bytes() if name == CONFIG else None, BundleError, "bundle")
    assert source is not None and source.text == "T"


def test_rows_and_cases(pictures: Path) -> None:
    """The first line of each was an error."""
    file = pictures / "cases.jsonl"
    file.write_bytes(MARK + b'{"image": "a.png", "prompt": "one"}\r\n{"image": "b.png", "prompt": "two"}\r\n')
    assert [case.prompt for case in read_jsonl(file)] == ["one", "two"]
    assert [json.loads(row.line)["prompt"] for row in open_source(file, 10).read(0)] == ["one", "two"]


def test_a_prompt_beside_a_picture(pictures: Path) -> None:
    assert {case.prompt for case in load(pictures).cases} == {"What is it?\nSay so."}
    list_folder(pictures, None, pictures / "rows.jsonl")
    rows = (pictures / "rows.jsonl").read_text().splitlines()
    assert {json.loads(row)["prompt"] for row in rows} == {"What is it?\nSay so."}


@pytest.mark.parametrize(("coding", "own"), [("utf-8-sig", "cp1252"), ("utf-16", "utf-8"), ("cp1252", "cp1252")])
def test_standard_input(coding: str, own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Marked as it may be, else in the encoding of the terminal."""
    data = "What is it?\r\nT\u00fcr\r\n".encode(coding)
    monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(data), encoding=own))
    assert read_prompt("-", as_json=False) == "What is it?\nT\u00fcr"


def test_rows_in_utf16_are_refused_at_once(pictures: Path) -> None:
    """A row of each was an error, and one of the byte behind the last."""
    file = pictures / "cases.jsonl"
    file.write_bytes('{"image": "a.png", "prompt": "one"}\r\n'.encode("utf-16"))
    with pytest.raises(UsageError, match=r"the questions are in UTF-16(.|\n)*cases\.jsonl(.|\n)*Set-Content"):
        open_source(file, 10)


@pytest.mark.parametrize("coding", ["utf-8-sig", "utf-16"])
def test_a_config_and_a_server_s_template(demo_bundle: Bundle, tmp_path: Path, coding: str) -> None:
    """The config was none of a model; the template's mark began every prompt."""
    config, template = tmp_path / "config.json", tmp_path / "own.jinja"
    config.write_bytes('{"model_type": "qwen2_vl", "image_token_id": 7}'.encode(coding))
    assert set(find(str(config)).tokens) == {7}
    template.write_bytes("Say: {{ messages[0].content }}".encode(coding))
    read = load_template(demo_bundle, template)
    assert read is not None and read.source == "Say: {{ messages[0].content }}"
    template.write_bytes(b"\xffno text")
    with pytest.raises(UsageError, match=r"--chat-template is no text(.|\n)*own\.jinja"):
        load_template(demo_bundle, template)


def test_a_mark_inside_is_a_letter() -> None:
    assert decoded("a\ufeffb".encode()) == "a\ufeffb"
