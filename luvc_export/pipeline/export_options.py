"""What a user sets of a bundle that is exported, beside its plans and the size of its images."""

from __future__ import annotations

import operator
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from luvc_export.bundle.manifest import Fit, WeightsMode
from luvc_export.core.files.folders import check_name
from luvc_export.core.files.text import read_text
from luvc_export.core.options import option, pair
from luvc_export.errors import UsageError

if TYPE_CHECKING:
    from luvc_export.export.checkpoint import Checkpoint
    from luvc_export.export.llm.lora_slots import SlotRequest
    from luvc_export.export.llm.reduced_head import ChosenTokens

_export = partial(option, verbs=("export",))
_planned = partial(option, verbs=("export", "plan"))
_seen = partial(option, verbs=("export", "plan", "parity"), tags=("searches",))


def _tokens(text: str | None) -> int | str | None:
    return int(text) if text is not None and text.isascii() and text.isdecimal() else text


def _names(text: str | None) -> tuple[str, ...] | None:
    return tuple(name.strip() for name in text.split(",")) if text else None


def _grids(texts: list[str] | None) -> tuple[tuple[int, int], ...]:
    """Parse every ``RxC`` (rows, columns) of ``--tiles``; (1, 1) where there is none.

    Raises:
        UsageError: One is no such pair.
    """
    return tuple(pair(text, "the tiles", "--tiles", "RxC, such as 2x3") for text in texts or ()) or ((1, 1),)


def _joint_tiles(text: str | None) -> tuple[int, int] | None:
    """Parse ``RxC`` of ``--joint-tiles``.

    Raises:
        UsageError: It is no such pair.
    """
    return None if text is None else pair(text, "the tiles", "--joint-tiles", "RxC, such as 2x3")


def _cell(text: str | None) -> tuple[int, int]:
    """Parse ``RxC`` of ``--merge-vectors``; (1, 1) where there is none.

    Raises:
        UsageError: It is no such pair, or larger than a bundle may say.
    """
    rows, columns = (1, 1) if text is None else pair(text, "the vectors", "--merge-vectors", "RxC, such as 2x2")
    if max(rows, columns) > 64:
        raise UsageError(
            "so many vectors do not become one", where="--merge-vectors", got=text, expected="64x64 at most"
        )
    return rows, columns


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Options of an export; each field's ``help`` says what it means, and docs/cli.md lists them.

    ``lora_slots`` None is a bundle without slots, ``lora_targets`` None every product; ``vocab`` is a file that lists
    tokens or is a text made of them, or how many, which ``vocab_data`` chooses; ``joint_frames`` makes ``NAME@video``
    beside plan ``NAME`` and implies ``video``, ``joint_tiles`` ``NAME@tiles`` and these tiles. ``task`` None is
    what the checkpoint's folder is made for.
    """

    tiles: Sequence[tuple[int, int]] = _seen(
        ((1, 1),),
        "Rows x columns of tiles a picture may be cut to; repeat.",
        metavar="RxC",
        written=list[str] | None,
        read=_grids,
    )
    video: bool = _seen(False, "Images have the frames of a video (Qwen-VL families).")
    joint_frames: int | None = _planned(
        None,
        "Budgets that N frames of a video share; implies --video. export: beside the plans for pictures.",
        metavar="N",
    )
    joint_tiles: tuple[int, int] | None = _planned(
        None,
        "Budgets that so many tiles of a picture share, the whole among them.",
        tags=("by hand",),
        metavar="RxC",
        written=str | None,
        read=_joint_tiles,
    )
    fit: Fit = _export(
        "pad", "pad, stretch or crop pictures of another shape.", written=str, choices=("pad", "stretch", "crop")
    )
    text_capacity: int = _export(1024, "Text tokens, prompt and answer.")
    dtype: str = _export("fp32", "Arithmetic of the graphs: fp32, fp16, bf16.", choices=("fp32", "fp16", "bf16"))
    weights: WeightsMode = _export(
        "copy", "copy, or reference the checkpoint's files.", written=str, choices=("copy", "reference")
    )
    debug: bool = _export(False, "Also write a decoder that takes the kept indices (parity).", "--debug-graph")
    padding: bool = _export(
        True,
        "Padding takes budget like picture.",
        "--ignore-padding",
        written=bool,
        shown=False,
        read=operator.not_,
    )
    round_activations: bool = _export(
        False, "Products of a quantised checkpoint's codes round activations to 8 bits: faster on CPUs, not exact."
    )
    strict: bool = _export(False, "Refuse FP8 checkpoints, whose weights are widened when they are loaded.")
    vocab: str | os.PathLike[str] | int | None = _export(
        None,
        "Head for some tokens alone: a JSON list of them, a text made of them, or how many (with --data).",
        metavar="FILE|N",
        written=str | None,
        read=_tokens,
    )
    vocab_data: str | os.PathLike[str] | None = _export(
        None,
        "Cases (JSON lines) whose tokens --vocab N keeps, those of answers first; what --precision calibrates on: a "
        "folder of pictures, too.",
        "--data",
        written=Path | None,
    )
    lora: str | os.PathLike[str] | None = _export(
        None, "Folder of a peft adapter to merge into the weights first.", written=Path | None
    )
    lora_slots: int | None = _export(
        None, "Take adapters of up to this rank when answering.", metavar="RANK", least=1, most=1024
    )
    lora_targets: Sequence[str] | None = _export(
        None,
        "Products of the LLM's layers with slots; default: every one.",
        metavar="NAME,..",
        written=str | None,
        read=_names,
    )
    unit_tolerance: int = _export(0, "Pixel levels up to which a unit is foretold; 0: exactly.", metavar="LEVELS")
    task: str | None = _export(
        None,
        "generate, embed, rerank or embed-many; default: what the checkpoint is for.",
        choices=("generate", "embed", "rerank", "embed-many"),
    )
    merge_vectors: tuple[int, int] = _export(
        (1, 1),
        "Rows x columns of a page's vectors that become one (embed-many): 1x2, 2x2, 3x3.",
        metavar="RxC",
        written=str | None,
        read=_cell,
    )
    overwrite: bool = _export(False, "Replace an existing bundle.")
    revision: str | None = _planned(None, "Hub branch, tag or commit.")


def chosen_tokens(checkpoint: Checkpoint, vocab: object, data: str | os.PathLike[str] | None) -> ChosenTokens | None:
    """The tokens to keep, or None.

    Raises:
        UsageError: A number without data or data without a number; see ``export.llm.reduced_head`` and ``parse_case``.
    """
    if vocab is None and data is None:
        return None
    if (data is None) == isinstance(vocab, int):
        raise UsageError(
            "a number of tokens is chosen by data, and a file by itself",
            where="--vocab",
            got=f"--vocab {vocab}" + (f" --data {data}" if data else ""),
            expected="--vocab FILE, or --vocab N --data CASES.jsonl",
        )
    from luvc_export.export.llm.reduced_head import tokens_of_file, tokens_of_texts
    from luvc_export.runtime.prompt.case_lines import parse_case

    if not isinstance(vocab, int):
        return tokens_of_file(checkpoint, Path(str(vocab)))
    path = Path(str(data))
    check_name(path, "the cases")
    if not path.is_file():
        raise UsageError("there are no such cases", where="--data", got=str(path), expected="a file of JSON lines")
    lines = enumerate(read_text(path, UsageError, "the file of cases").splitlines(), 1)
    cases = [parse_case(line, f"{path}:{number}", path.parent) for number, line in lines if line.strip()]
    answers = [case.answer for case in cases if case.answer]
    return tokens_of_texts(checkpoint, vocab, answers, [case.prompt for case in cases], path.name)


def asked_slots(rank: int | None, targets: Sequence[str] | None) -> SlotRequest | None:
    """What slots there shall be, or None.

    Raises:
        UsageError: Targets without a rank, or a rank that is none.
    """
    from luvc_export.export.llm.lora_slots import SlotRequest

    if rank is None and targets is None:
        return None
    if rank is None or rank < 1:
        raise UsageError(
            "slots have a rank",
            where="--lora-slots",
            got=rank,
            expected="the largest rank of the adapters to come, such as 16",
        )
    return SlotRequest(rank, tuple(dict.fromkeys(targets)) if targets else None)
