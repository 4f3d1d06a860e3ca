"""Facts of a tokenizer that lie outside tokenizer.json: what a bundle gets reads and writes as transformers does."""

from __future__ import annotations

import json
import shutil
from codecs import BOM_UTF8
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, normalizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from luvc_export.demo import CHECKPOINT
from luvc_export.errors import CheckpointError
from luvc_export.export import lora
from luvc_export.export.checkpoint import open_checkpoint
from luvc_export.export.reading.tokenizer_files import hard_texts, tokenizer_files

TOKENIZER, CONFIG = "tokenizer.json", "tokenizer_config.json"


def config(folder: Path, **fields: Any) -> None:
    path = folder / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def rules(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / TOKENIZER
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def extra(folder: Path) -> None:
    config(folder, extra_special_tokens=["<|more|>"])


def additional(folder: Path) -> None:
    config(folder, additional_special_tokens=["<|more|>", "<|im_end|>"])


def decoder(folder: Path) -> None:
    token = {"content": "<|more|>", "lstrip": True, "rstrip": True, "normalized": False, "single_word": False}
    number = len(json.loads((folder / TOKENIZER).read_text())["model"]["vocab"]) + 50
    config(folder, added_tokens_decoder={str(number): token | {"special": True}})


def added_file(folder: Path) -> None:
    vocab = json.loads((folder / TOKENIZER).read_text())["model"]["vocab"]
    (folder / "added_tokens.json").write_text(json.dumps({"<|more|>": len(vocab) + 50}))


def unmarked_end(folder: Path) -> None:
    """The token that ends answers is an ordinary one in tokenizer.json."""

    def change(data: dict[str, Any]) -> None:
        for token in data["added_tokens"]:
            token["special"] = token["special"] and token["content"] != "<|im_end|>"

    rules(folder, change)


def taken_away(folder: Path) -> None:
    """A config that calls a special token an ordinary one: transformers leaves it out of texts still."""
    tokens = json.loads((folder / TOKENIZER).read_text())["added_tokens"]
    fields = {str(one.pop("id")): one | {"special": one["content"] != "<|im_start|>"} for one in tokens}
    config(folder, added_tokens_decoder=fields)


def named_in_the_map(folder: Path) -> None:
    (folder / "special_tokens_map.json").write_text(json.dumps({"bos_token": "<|im_start|>"}))


def qwen(folder: Path) -> None:
    config(folder, tokenizer_class="Qwen2Tokenizer")


def gpt(folder: Path) -> None:
    config(folder, tokenizer_class="GPT2Tokenizer", add_prefix_space=True)


FACTS = (extra, additional, decoder, added_file, unmarked_end, taken_away, named_in_the_map, qwen, gpt)
TEXTS = ("a <|more|> b", "a<|im_start|>b", "cafe\u0301 12345", " x", "it <|im_end|> ends", "\ufb01 \n\n 1.5")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    copied = tmp_path / "checkpoint"
    shutil.copytree(CHECKPOINT, copied, ignore=shutil.ignore_patterns("*.safetensors"))
    return copied


def reads(tokenizer: Tokenizer, text: str) -> tuple[list[int], str]:
    ids = tokenizer.encode(text).ids
    return ids, tokenizer.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact.__name__)
def test_a_bundle_s_tokenizer_is_transformers(folder: Path, fact: Callable[[Path], None]) -> None:
    fact(folder)
    plain = Tokenizer.from_file(str(folder / TOKENIZER))
    built: Any = AutoTokenizer.from_pretrained(folder)
    files = tokenizer_files(folder).files
    ours = Tokenizer.from_str(files[TOKENIZER].decode())
    for text in TEXTS:
        ids = list(built(text).input_ids)
        assert reads(ours, text) == (ids, built.decode(ids, skip_special_tokens=True))
    named = {name: one for name, one in json.loads(files[CONFIG]).items() if name.endswith("_token")}
    assert named == built.special_tokens_map
    stated = json.loads((folder / CONFIG).read_text())
    changes = any(reads(ours, text) != reads(plain, text) for text in TEXTS) or named != {
        name: one for name, one in stated.items() if name.endswith("_token")
    }
    refused = fact is taken_away  # before, as the library writes another word than it follows
    nothing = fact is additional and "<|more|>" not in built.get_vocab()
    assert changes or refused or nothing  # else this case shows nothing


def test_what_says_everything_is_copied_to_the_byte(folder: Path) -> None:
    copied = tokenizer_files(folder)
    assert copied.notes == () and {*copied.files} == {TOKENIZER, CONFIG}
    for name, data in copied.files.items():
        assert data == (folder / name).read_bytes()


def test_a_tokenizer_of_the_repository_s_own_code_is_kept(folder: Path) -> None:
    config(folder, tokenizer_class="OwnTokenizer", auto_map={"AutoTokenizer": [None, "own.OwnTokenizer"]})
    config_file = folder / "config.json"
    data = json.loads(config_file.read_text())
    assert tokenizer_files(folder).files[TOKENIZER] == (folder / TOKENIZER).read_bytes()
    config_file.write_text(json.dumps(data | {"model_type": "stranger"}))
    kept = tokenizer_files(folder)
    assert kept.files == {name: (folder / name).read_bytes() for name in (TOKENIZER, CONFIG)}
    assert "code of the repository, which is not run): its tokenizer.json is kept as it is" in kept.notes[0]


def test_what_cannot_be_saved_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A class that does more than its rules: here it lowers every letter before they are asked."""
    plain = PreTrainedTokenizerFast._encode_plus

    def lowered(self: Any, text: Any, *positional: Any, **named: Any) -> Any:
        return plain(self, text.lower(), *positional, **named)

    monkeypatch.setattr(PreTrainedTokenizerFast, "_encode_plus", lowered)
    refusal = r"cannot be saved as a tokenizer\.json(.|\n)*has ids \[(.|\n)*where transformers has(.|\n)*fast tokenizer"
    with pytest.raises(CheckpointError, match=refusal):
        tokenizer_files(folder)


def older(folder: Path) -> None:
    """vocab.json and merges.txt in the place of tokenizer.json, as the first repositories of a family have them."""
    model = json.loads((folder / TOKENIZER).read_text())["model"]
    (folder / TOKENIZER).unlink()
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    (folder / "merges.txt").write_text("\n".join(" ".join(pair) for pair in model["merges"]))
    config(folder, tokenizer_class="Qwen2Tokenizer")


def test_an_older_vocabulary_is_made_a_tokenizer_of(folder: Path) -> None:
    """Such a checkpoint had to be converted by hand."""
    decoder(folder)
    older(folder)
    built: Any = AutoTokenizer.from_pretrained(folder)
    ours = Tokenizer.from_str(tokenizer_files(folder).files[TOKENIZER].decode())
    for text in TEXTS:
        ids = list(built(text).input_ids)
        assert reads(ours, text) == (ids, built.decode(ids, skip_special_tokens=True))
    assert len(ours.encode("the picture").ids) < len("the picture")  # merges are read


def test_what_an_adapter_is_merged_into_has_its_merges(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They were left behind, and its words were read letter by letter."""
    older(folder)
    shutil.copy(CHECKPOINT / "model.safetensors", folder)
    (adapter := folder.parent / "adapter").mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    monkeypatch.setattr(
        lora, "_merge", lambda checkpoint, own, target: shutil.copy(folder / "model.safetensors", target)
    )
    with lora.merged(open_checkpoint(str(folder)), str(adapter)) as merged:
        assert tokenizer_files(merged.folder).files[TOKENIZER] == tokenizer_files(folder).files[TOKENIZER]


def test_without_any_vocabulary_nothing_is_built(folder: Path) -> None:
    (folder / TOKENIZER).unlink()
    assert TOKENIZER not in tokenizer_files(folder).files


def test_rules_that_cannot_read_a_text_are_refused(folder: Path) -> None:
    """Gemma's class names an unknown token that these rules have not; the library raises its bare Exception."""
    config(folder, tokenizer_class="GemmaTokenizerFast")
    with pytest.raises(CheckpointError, match=r"cannot be saved as a tokenizer\.json(.|\n)*cannot be read: Unk token"):
        tokenizer_files(folder)


def test_special_tokens_that_are_letters_are_refused(folder: Path) -> None:
    """No picture has a place in what transformers reads of such a prompt."""
    marker = json.loads((folder / TOKENIZER).read_text())["added_tokens"][5]
    for split in (False, True):
        config(folder, split_special_tokens=split)
        built: Any = AutoTokenizer.from_pretrained(folder)
        assert (marker["id"] in built(f"a {marker['content']}").input_ids) is not split
        if split:
            with pytest.raises(
                CheckpointError, match=r"special tokens as letters(.|\n)*split_special(.|\n)*take the fi"
            ):
                tokenizer_files(folder)
        else:
            assert TOKENIZER in tokenizer_files(folder).files


@pytest.mark.parametrize("name", ["config.json", TOKENIZER, CONFIG])
def test_a_byte_order_mark_that_transformers_does_not_read_is_named(folder: Path, name: str) -> None:
    (folder / name).write_bytes(BOM_UTF8 + (folder / name).read_bytes())
    with pytest.raises((OSError, ValueError)):
        AutoTokenizer.from_pretrained(folder)
    with pytest.raises(CheckpointError, match=rf"builds no tokenizer(.|\n)*save {name} as UTF-8 without a byte-order"):
        tokenizer_files(folder)


def test_a_tokenizer_that_nobody_builds(folder: Path) -> None:
    (folder / TOKENIZER).write_text('{"model": {"type": "none of them"}}')
    with pytest.raises(CheckpointError, match=r"transformers builds no tokenizer of this folder(.|\n)*download"):
        tokenizer_files(folder)


def test_the_hard_texts_are_many_and_hard() -> None:
    texts = hard_texts(["<|a|>", "<|b|>"])
    assert len({*texts}) > 200 and "a<|a|>b" in texts and "<|a|><|b|>" in texts
    composed = normalizers.NFC().normalize_str
    assert sum(composed(text) != text for text in texts) > 5
