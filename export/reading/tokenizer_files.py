"""A checkpoint's tokenizer as transformers builds it: in files that say everything, compared on hard texts.

Facts lie beside tokenizer.json: tokens that tokenizer_config.json adds or marks as special, names that only
special_tokens_map.json has, classes that make the splitter anew. A bundle's tokenizer.json holds what comes out.
"""

from __future__ import annotations

import json
import warnings
from codecs import BOM_UTF8
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from luvc_export.core.files.folders import list_names
from luvc_export.core.files.safe_files import open_regular
from luvc_export.core.files.template_source import json_object
from luvc_export.errors import CheckpointError

#: Composed and decomposed letters, digits in groups and in other scripts, scripts without blanks, marks that join,
#: blanks of all kinds, what regular expressions split at, and what sanitisers change.
_HARD = json.loads(Path(__file__).with_name("hard_texts.json").read_text(encoding="utf-8"))


def hard_texts(tokens: Iterable[str]) -> list[str]:
    """250 texts, and those of ``tokens`` (the added ones) alone, amid blanks, inside words and in pairs."""
    hard, blanks, added = _HARD["texts"], _HARD["blanks"], [*tokens]
    texts = [*hard, *(f" {part}\n" for part in hard), *(f"{blank}a{blank}b{blank}" for blank in blanks), *blanks]
    texts += [f"{part}{part.swapcase()} 7{part}" for part in hard]
    texts += [" ".join(hard), "\n".join(hard)]
    texts += [form.replace("@", token) for token in added for form in _HARD["around_tokens"]]
    return [*texts, *map("".join, pairwise(added))]


TOKENIZER, CONFIG = "tokenizer.json", "tokenizer_config.json"
#: What transformers makes a tokenizer of where there is no tokenizer.json.
_SLOW = ("vocab.json", "vocab.txt", "tokenizer.model", "spiece.model")
#: Of the added tokens, those that texts are made of: the first and the last.
_NAMED = 64


@dataclass(frozen=True)
class TokenizerFiles:
    """Bytes of a bundle's ``tokenizer.json`` and ``tokenizer_config.json``, and what a user should know of them."""

    files: dict[str, bytes]
    notes: tuple[str, ...] = ()


def tokenizer_files(folder: Path) -> TokenizerFiles:
    """The tokenizer of a checkpoint's folder; the checkpoint's own bytes where they say the same already.

    Where only an older vocabulary lies there, tokenizer.json is what transformers makes of it; without either, which
    graphs alone do not need, nothing is built. A tokenizer that needs code of the repository, or a package that is not
    here, keeps its files, with a note.

    Raises:
        CheckpointError: transformers builds none of the files, or one that reads or writes a text otherwise than what
            can be saved of it.
    """
    beside = [folder / name for name in list_names(folder) if name.endswith((".json", ".txt", ".model", ".jinja"))]
    return _files(folder, tuple((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in beside))


@lru_cache(maxsize=4)
def _files(folder: Path, known_by: tuple[tuple[str, int, int], ...]) -> TokenizerFiles:
    own = {name: _bytes(folder / name) for name in (TOKENIZER, CONFIG) if (folder / name).is_file()}
    if TOKENIZER not in own and not any((folder / name).is_file() for name in _SLOW):
        return TokenizerFiles(own)
    try:
        built = _build(folder)
    except (ImportError, _OwnCodeError) as error:
        kept = (
            "its tokenizer.json is kept as it is, and not compared" if TOKENIZER in own else "it has no tokenizer.json"
        )
        return TokenizerFiles(own, (f"transformers does not build this tokenizer here ({error}): {kept}",))
    backend = getattr(built, "backend_tokenizer", None)
    if backend is None and TOKENIZER not in own:
        return TokenizerFiles(own, ("transformers makes no fast tokenizer of this vocabulary",))
    data = own[TOKENIZER] if backend is None else _marked(backend.to_str(), built)
    if TOKENIZER in own and _rules(data) == _rules(own[TOKENIZER]):
        data = own[TOKENIZER]
    _compare(data, built, folder)
    return TokenizerFiles({TOKENIZER: data} | _config(own.get(CONFIG), dict(built.special_tokens_map), folder))


def _marked(rules: str, built: Any) -> bytes:
    """``rules`` with every token special that ``built`` leaves out of texts as one.

    Of a special token that a config makes an ordinary one, the library writes the config's word and follows its own.
    """
    data = json.loads(rules)
    ordinary = [token for token in data["added_tokens"] if not token["special"]]
    gone = [token for token in ordinary if built.decode(token["id"]) and not built.decode(token["id"], True)]
    for token in gone:
        token["special"] = True
    return json.dumps(data, ensure_ascii=False).encode() if gone else rules.encode()


class _OwnCodeError(Exception):
    """The repository's tokenizer is a program."""


def _build(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            built: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except ImportError:
        raise
    except Exception as error:  # tokenizers raises the bare Exception, transformers whatever a wrong type leads to
        if isinstance(error, ValueError) and "trust_remote_code" in str(error):
            raise _OwnCodeError("its class is code of the repository, which is not run") from error
        texts = [name for name in list_names(folder) if name.endswith((".json", ".txt"))]
        marked = [name for name in texts if _bytes(folder / name).startswith(BOM_UTF8)]
        raise CheckpointError(
            "transformers builds no tokenizer of this folder",
            where=str(folder),
            got=f"{type(error).__name__}: {str(error)[:300]}",
            fix=f"save {', '.join(marked)} as UTF-8 without a byte-order mark, which transformers does not read"
            if marked
            else "download tokenizer.json, tokenizer_config.json and what lies beside them again",
        ) from error
    if built.split_special_tokens:
        raise CheckpointError(
            "the tokenizer reads special tokens as letters, so no prompt has a turn or a place of a picture",
            where=f"{folder / CONFIG}: split_special_tokens",
            got=True,
            expected="false: transformers, too, answers no question about a picture with it",
            fix="take the field out",
        )
    return built


def _rules(data: bytes) -> Any:
    """A tokenizer's JSON without what changes no ids: how batches are cut and filled, a template with nothing in it."""
    rules = json.loads(data)
    around = rules.get("post_processor") or {}
    if around.get("type") == "TemplateProcessing" and not around.get("special_tokens"):
        rules["post_processor"] = None
    return {**rules, "truncation": None, "padding": None}


def _compare(data: bytes, built: Any, folder: Path) -> None:
    """Check that what a session reads out of ``data`` is what ``built`` is.

    Raises:
        CheckpointError: A text has other ids, or ids have another text.
    """
    from tokenizers import Tokenizer

    ours = Tokenizer.from_str(data.decode())
    ours.no_truncation()
    ours.no_padding()
    added = [token.content for _, token in sorted(ours.get_added_tokens_decoder().items())]
    for text in hard_texts(dict.fromkeys([*added[:_NAMED], *added[-_NAMED:]])):
        for special in (False, True):
            try:
                ids = ours.encode(text, add_special_tokens=special).ids
            except Exception as error:  # the bare one: a class names an unknown token that the vocabulary has not
                raise _differs(folder, f"the text {text!r:.60} cannot be read: {str(error)[:200]}") from error
            right = list(built(text, add_special_tokens=special).input_ids)
            if ids != right:
                raise _differs(folder, f"the text {text!r:.60} has ids {ids[:12]} where transformers has {right[:12]}")
        wrote = ours.decode(ids, skip_special_tokens=True)
        right_text = built.decode(ids, skip_special_tokens=True)
        if wrote != right_text:
            raise _differs(folder, f"ids {ids[:12]} are {wrote!r:.60} where transformers writes {right_text!r:.60}")


def _differs(folder: Path, got: str) -> CheckpointError:
    return CheckpointError(
        "the tokenizer that transformers builds cannot be saved as a tokenizer.json",
        where=str(folder),
        got=got,
        expected="a fast tokenizer: one that is all in its rules",
        fix="ask its makers for a fast tokenizer, or convert it: AutoTokenizer.from_pretrained(MODEL).save_pretrained",
    )


def _config(data: bytes | None, special: dict[str, str], folder: Path) -> dict[str, bytes]:
    """tokenizer_config.json with the named tokens that a chat template sees, which are those of transformers alone."""
    fields = {} if data is None else json_object(data, CheckpointError, str(folder / CONFIG))  # a length may be 1e30
    plain = {name: one.get("content") if isinstance(one, dict) else one for name, one in fields.items()}
    stated = {name: one for name, one in plain.items() if name.endswith("_token") and isinstance(one, str)}
    if stated == special:
        return {} if data is None else {CONFIG: data}
    rest = {name: value for name, value in fields.items() if name not in stated}
    return {CONFIG: json.dumps(rest | special, ensure_ascii=False, indent=1).encode()}


def _bytes(path: Path) -> bytes:
    with open_regular(path, links=True) as file:
        return file.read()
