"""How a checkpoint's rows become vectors: by its sentence-transformers files, read as they lie, or by its model's card.

``modules.json`` names classes by their paths. A path is matched against those known here; nothing of it is imported.
What stands in these files decides alone, also where it says nothing (no prompt, say).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luvc_export.core.files.json_file import read_json
from luvc_export.core.tasks import Embedding, Pooling
from luvc_export.errors import CheckpointError, UsageError
from luvc_export.export.checkpoint import Checkpoint, checkpoint_json
from luvc_export.export.reading.remarks import chat_template
from luvc_export.export.reading.tokenizer_files import tokenizer_files

if TYPE_CHECKING:
    from luvc_export.export.options import Options

MODULES = "modules.json"
#: Class paths since sentence-transformers 5.4, which reads those before it too.
_ROOT, _SINCE = "sentence_transformers.models.", {
    "sentence_transformers.base.modules.transformer.Transformer": "Transformer",
    "sentence_transformers.sentence_transformer.modules.pooling.Pooling": "Pooling",
    "sentence_transformers.base.modules.normalize.Normalize": "Normalize",
    "sentence_transformers.sentence_transformer.modules.normalize.Normalize": "Normalize",
    "sentence_transformers.cross_encoder.modules.logit_score.LogitScore": "LogitScore",
}  # fmt: skip
_KNOWN = {**_SINCE, **{f"{_ROOT}{name}": name for name in _SINCE.values()}}
_JUDGES = ["Transformer", "LogitScore"]
_CHAINS = (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"])
#: Of the chat template's own options, those that leave what is read here as it is.
_TEMPLATE = {"add_generation_prompt", "restore_suffix"}


def task_of(checkpoint: Checkpoint, named: str | None) -> str:
    """The task to export for: the one named, or what the folder is made for.

    Raises:
        UsageError: The family has no such task.
    """
    if only := checkpoint.family.task:
        if named not in (None, only):
            got, fix = named, f"--task {only}, or leave it out"
            raise UsageError("this family is for one task", where="--task", got=got, expected=only, fix=fix)
        return only
    if named or not (checkpoint.folder / MODULES).is_file():
        return named or "generate"
    return "rerank" if _names(_list(checkpoint.folder)) == _JUDGES else "embed"


def embedding_of(checkpoint: Checkpoint, options: Options) -> Embedding:
    """How the bundle embeds.

    Raises:
        UsageError: The family does not embed here, or an option is of answers alone.
        CheckpointError: There is no chat template, or the folder asks for what is not computed here.
    """
    family, folder = checkpoint.family, checkpoint.folder
    task = options.task
    if (card := family.embedding(checkpoint.config, task)) is None:
        got, expected = family.model_type, "a family of docs/embeddings.md"
        raise UsageError("this family does not embed here", where=f"--task {task}", got=got, expected=expected)
    alone = {"--debug-graph": options.debug, "--video": options.video, "--vocab": options.vocabulary is not None}
    alone["--lora-slots"] = options.lora_slots is not None
    if unfit := [name for name, value in alone.items() if value]:
        fix = "leave it out, or --task generate"
        raise UsageError("a bundle that embeds has nothing of this", where=unfit[0], got=f"--task {task}", fix=fix)
    template = family.prompts(folder)
    if checkpoint.tensors and template is None and chat_template(folder) is None:
        raise CheckpointError("inputs are embedded inside a chat, and there is no chat template", where=str(folder))
    hidden = family.decoder_shape(checkpoint.config).hidden
    listed = (folder / MODULES).is_file()
    if options.merge_vectors != (1, 1) and card.pooling != "every":
        raise UsageError("one vector is not merged", where="--merge-vectors", got=options.merge_vectors)
    if card.pooling == "every":
        return replace(card, merged=options.merge_vectors)
    if card.pair is not None:
        return replace(card, labels=_labels(folder) if listed else _yes_or_no(checkpoint))
    sizes = _sizes(getattr(checkpoint.config, "matryoshka_dimensions", None), card.width or hidden, folder)
    return replace(_read(folder, card, card.width or hidden) if listed else card, sizes=sizes)


def _labels(folder: Path) -> tuple[int, int]:
    """Of a reranker's files, the tokens for a document that does not answer and for one that does.

    Raises:
        CheckpointError: They ask for what is not computed here.
    """
    modules = _list(folder)
    if _names(modules) != _JUDGES:
        types = [str(module.get("type"))[:80] for module in modules]
        raise _unlike("type", types, "Transformer and LogitScore of sentence-transformers", folder)
    place = _place(modules[1], folder) / "config.json"
    settings = checkpoint_json(place)
    labels = settings.get("false_token_id"), settings.get("true_token_id")
    if not all(type(one) is int and one >= 0 for one in labels):
        raise _unlike("true_token_id, false_token_id", str(labels)[:80], "two tokens", place)
    return labels  # type: ignore[return-value]


def _yes_or_no(checkpoint: Checkpoint) -> tuple[int, int]:
    """The tokens of the words no and yes, as the script beside Qwen3-VL-Reranker takes them.

    Raises:
        CheckpointError: The tokenizer has no such tokens.
    """
    from tokenizers import Tokenizer

    if not checkpoint.tensors:
        return 0, 1
    tokenizer = Tokenizer.from_str(tokenizer_files(checkpoint.folder).files["tokenizer.json"].decode())
    no, yes = (tokenizer.token_to_id(word) for word in ("no", "yes"))
    if no is None or yes is None:
        raise CheckpointError(
            "the tokenizer has no tokens for yes and no, which a score is made of",
            where=str(checkpoint.folder / "tokenizer.json"),
            got=f"no {no}, yes {yes}",
            expected="one token each",
            fix="take a reranker, or --task embed",
        )
    return no, yes


def _read(folder: Path, card: Embedding, numbers: int) -> Embedding:
    """By sentence-transformers' files.

    Raises:
        CheckpointError: One is missing, or asks for what is not computed here.
    """
    modules = _list(folder)
    names = _names(modules)
    if names not in _CHAINS:
        types = [str(module.get("type"))[:80] for module in modules]
        raise _unlike("type", types, "Transformer, Pooling and perhaps Normalize of sentence-transformers", folder)
    place = _place(modules[1], folder)
    if modules[0].get("path") not in ("", None):
        raise _unlike("path", modules[0].get("path"), "the model in the folder itself", folder)
    pooling = checkpoint_json(place / "config.json")
    if (mode := _mode(pooling)) not in (["lasttoken"], ["mean"]):
        raise _unlike("pooling_mode", mode, "lasttoken or mean", place / "config.json")
    if mode == ["mean"] and pooling.get("include_prompt", True) is not True:
        raise _unlike(
            "include_prompt", pooling["include_prompt"], "true: of the mean a prompt is part", place / "config.json"
        )
    width = pooling.get("embedding_dimension", pooling.get("word_embedding_dimension", numbers))
    if width != numbers:
        raise _unlike("embedding_dimension", width, str(numbers), place / "config.json")
    settings = _optional(folder / "config_sentence_transformers.json")
    prompts, default = settings.get("prompts") or {}, settings.get("default_prompt_name")
    if not isinstance(prompts, dict) or not all(isinstance(text, str) for text in prompts.values()):
        raise _unlike("prompts", repr(prompts)[:80], "texts by name", folder)
    if default is not None and default not in prompts:
        raise _unlike("default_prompt_name", repr(default)[:80], f"one of {sorted(prompts)}"[:200], folder)
    processing = _optional(folder / "sentence_bert_config.json").get("processing_kwargs") or {}
    template = processing.get("chat_template") or {} if isinstance(processing, dict) else {}
    if not isinstance(template, dict) or not template.keys() <= _TEMPLATE:
        raise _unlike("processing_kwargs.chat_template", str(template)[:80], " and ".join(sorted(_TEMPLATE)), folder)
    opens = bool(template.get("add_generation_prompt", False))
    kind: Pooling = "mean" if mode == ["mean"] else "last"
    card = replace(card, pooling=kind, normalise="Normalize" in names, generation_prompt=opens)
    return replace(card, prompts=dict(prompts), default_prompt=default)


def _names(modules: Sequence[dict[str, Any]]) -> list[str | None]:
    """What is known of a chain's classes."""
    return [_KNOWN.get(str(module.get("type"))) for module in modules]


def _place(module: dict[str, Any], folder: Path) -> Path:
    """The folder of a module's configuration.

    Raises:
        CheckpointError: It is none beside ``modules.json``.
    """
    place = str(module.get("path"))
    if not re.fullmatch(r"\w[\w.-]*", place):
        raise _unlike("path", place, "a folder beside modules.json", folder)
    return folder / place


def _mode(pooling: dict[str, Any]) -> list[str]:
    """Ways of pooling, by the name they have now, of today's files and of older ones."""
    mode = pooling.get("pooling_mode")
    if mode is not None:
        return [str(one) for one in mode] if isinstance(mode, list) else [str(mode)]
    flags = [name.removeprefix("pooling_mode_") for name, value in pooling.items() if value is True]
    return [name.removesuffix("_tokens") for name in flags if name not in ("include_prompt",)] or ["mean"]


def _sizes(stated: Any, hidden: int, folder: Path) -> tuple[int, ...]:
    """Matryoshka sizes of ``config.json`` (``matryoshka_dimensions``, which vLLM reads too), ascending."""
    if stated is None:
        return ()
    if not isinstance(stated, list) or not all(type(size) is int and 0 < size <= hidden for size in stated):
        raise _unlike("matryoshka_dimensions", str(stated)[:80], f"numbers of 1 to {hidden}", folder / "config.json")
    return tuple(sorted(set(stated)))


def _list(folder: Path) -> list[dict[str, Any]]:
    modules = read_json(folder / MODULES, 2**20, CheckpointError, "the list of modules")
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise _unlike("", type(modules).__name__, "a list of modules", folder)
    return modules


def _optional(path: Path) -> dict[str, Any]:
    return checkpoint_json(path) if path.is_file() else {}


def _unlike(field: str, got: object, expected: str, where: Path) -> CheckpointError:
    place = where / MODULES if where.is_dir() else where
    return CheckpointError(
        "this sentence-transformers folder asks for what is not computed here",
        where=f"{place}: {field}",
        got=got,
        expected=expected,
    )
