"""A reduced vocabulary: which tokens answers need, and the head that has rows for those alone.

The head is the largest matrix that a decode step reads of many small models. Its rows for tokens that a task never
writes are left out; the embedding stays whole, so that every prompt is read as before. In the graph the logits are put
back at their tokens' ids, others getting ``ABSENT``: what samples, masks, counts or maps tokens sees the ids it knows,
on the device and on the host.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from luvc_export.bundle.manifest import Vocabulary
from luvc_export.core.files.json_file import read_json
from luvc_export.core.files.text import read_text
from luvc_export.core.graph_io import ABSENT
from luvc_export.errors import CheckpointError, UsageError
from luvc_export.export.checkpoint import Checkpoint, StoredTensor
from luvc_export.export.reading.tokenizer_files import TOKENIZER, tokenizer_files
from luvc_export.export.weights import DTYPES, Skeleton

#: Byte tokens of SentencePiece vocabularies, such as <0x0A>.
_BYTE = re.compile(r"<0x..>", re.DOTALL)
HEAD = "lm_head.weight"
_LARGEST_FILE = 2**28


@dataclass(frozen=True)
class ChosenTokens:
    """Ids of the tokens that answers may hold, ascending, and what they were chosen by."""

    ids: tuple[int, ...]
    source: str


def tokens_of_file(checkpoint: Checkpoint, path: Path) -> ChosenTokens:
    """The tokens a file names, or those its text is made of, and those that any answer needs (``needed``).

    Args:
        checkpoint: Whose tokenizer reads the text.
        path: JSON, a list of ids or of tokens as the tokenizer spells them; any other text (a corpus, a schema, a word
            list) stands for the tokens it is made of.

    Raises:
        UsageError: The file cannot be read, is empty, or names what the tokenizer does not know.
    """
    listed = _listed(path)
    tokenizer, rows = _tokenizer(checkpoint), checkpoint.family.decoder_shape(checkpoint.config).vocab
    if listed is None:
        tokens = set(_counted(tokenizer, _lines(path)))
    else:
        named = [(item, tokenizer.token_to_id(item) if isinstance(item, str) else item) for item in listed]
        unknown = [item for item, id_ in named if type(id_) is not int or not 0 <= id_ < rows]
        if unknown:
            raise UsageError(
                "the list names tokens that the model has not",
                where=f"--vocab {path}",
                got=", ".join(repr(item)[:40] for item in unknown[:5]),
                expected=f"ids from 0 to {rows - 1}, or tokens as tokenizer.json spells them",
            )
        tokens = {int(id_) for _, id_ in named}
    if not tokens:
        raise UsageError("this file names no token", where=f"--vocab {path}", expected="a list of tokens, or a text")
    return _chosen(checkpoint, tokenizer, tokens, path.name)


def tokens_of_texts(
    checkpoint: Checkpoint, count: int, answers: Iterable[str], prompts: Iterable[str], source: str
) -> ChosenTokens:
    """``count`` tokens: those any answer needs, the most frequent of answers, then of prompts, then the lowest ids.

    Prompts are no answers, but of the same subject. Tokenizers number merges in the order in which they were learned,
    so low ids are frequent ones in general.

    Raises:
        UsageError: ``count`` is less than any answer needs, or all tokens there are.
    """
    tokenizer, rows = _tokenizer(checkpoint), checkpoint.family.decoder_shape(checkpoint.config).vocab
    always = needed(checkpoint, tokenizer)
    if not len(always) <= count < rows:
        raise UsageError(
            "so many tokens are no reduced vocabulary",
            where="--vocab",
            got=count,
            expected=f"{len(always)} (bytes and special tokens, which any answer may need) to {rows - 1}",
        )
    answered, asked = (_counted(tokenizer, texts) for texts in (answers, prompts))
    tokens = set(always)
    for token in (*(one for counted in (answered, asked) for one, _ in counted.most_common()), *range(rows)):
        if len(tokens) == count:
            break
        tokens.add(token)
    return _chosen(checkpoint, tokenizer, tokens, source)


def needed(checkpoint: Checkpoint, tokenizer: Any) -> frozenset[int]:
    """Tokens that any answer may need: special ones, and every one of a single letter or byte."""
    rows = checkpoint.family.decoder_shape(checkpoint.config).vocab
    short = {id_ for token, id_ in tokenizer.get_vocab(False).items() if len(token) == 1 or _BYTE.fullmatch(token)}
    return frozenset(id_ for id_ in short | {*tokenizer.get_added_tokens_decoder()} if id_ < rows)


def reduced(
    skeleton: Skeleton,
    tensors: dict[str, StoredTensor],
    ids: tuple[int, ...],
    dtype: str,
    kind: Callable[[nn.Parameter, Sequence[int], int], nn.Module] | None = None,
    option: str = "--vocab",
) -> None:
    """Give ``skeleton`` a head of the rows of ``ids``, and ``tensors`` where these lie in the checkpoint.

    ``kind`` makes the head of its weight, the ids and the vocabulary's size; None a ``ReducedHead``.

    Raises:
        CheckpointError: The head is no plain matrix.
    """
    model: Any = skeleton.model
    head = getattr(model, "lm_head", None)
    if not isinstance(head, nn.Linear) or head.bias is not None:
        raise CheckpointError(
            "the head of this model cannot be reduced",
            where="lm_head",
            got=type(head).__name__,
            expected="one matrix without a bias",
            fix=f"leave {option} out",
        )
    stored = tensors.get(HEAD) or tensors.get(skeleton.names[id(head.weight)])
    zero = torch.zeros((), dtype=DTYPES[dtype]).expand(len(ids), head.weight.shape[1])
    if tensors and stored is None:
        raise CheckpointError(
            "the head of this checkpoint is quantised, so its rows cannot be left out",
            where="lm_head",
            expected="a head of fp32, fp16 or bf16",
            fix=f"leave {option} out, or export the checkpoint it was made of",
        )
    rows, weight = head.weight.shape[0], nn.Parameter(zero, requires_grad=False)
    skeleton.names[id(weight)] = HEAD
    model.lm_head = (kind or ReducedHead)(weight, ids, rows)
    if stored is not None:
        bytes_ = stored.bytes // rows * len(ids)
        tensors[HEAD] = replace(stored, bytes=bytes_, shape=(len(ids), stored.shape[1]), rows=ids)


class ReducedHead(nn.Module):
    """Logits of all tokens from rows for some: a product, then each token's own place.

    Args:
        weight: [kept, D].
        ids: Of its rows, ascending.
        vocab: Tokens there are.
    """

    places: Tensor
    known: Tensor

    def __init__(self, weight: nn.Parameter, ids: Sequence[int], vocab: int) -> None:
        super().__init__()
        self.weight = weight
        known, places = torch.zeros(vocab, dtype=torch.bool), torch.zeros(vocab, dtype=torch.int32)
        kept = torch.tensor(ids)
        known[kept], places[kept] = True, torch.arange(len(ids), dtype=torch.int32)
        self.register_buffer("known", known, persistent=False)
        self.register_buffer("places", places, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., vocab]."""
        logits = nn.functional.linear(x, self.weight)
        return torch.where(self.known, logits.index_select(-1, self.places), torch.tensor(ABSENT, dtype=logits.dtype))


def vocabulary(checkpoint: Checkpoint, chosen: ChosenTokens) -> Vocabulary:
    """What the manifest says of it."""
    return Vocabulary(len(chosen.ids), checkpoint.family.decoder_shape(checkpoint.config).vocab, chosen.source)


def _chosen(checkpoint: Checkpoint, tokenizer: Any, tokens: set[int], source: str) -> ChosenTokens:
    return ChosenTokens(tuple(sorted(tokens | needed(checkpoint, tokenizer))), source)


def _tokenizer(checkpoint: Checkpoint) -> Any:
    from tokenizers import Tokenizer

    data = tokenizer_files(checkpoint.folder).files.get(TOKENIZER)
    if data is None:
        raise CheckpointError(
            "a reduced vocabulary needs the tokenizer",
            where=str(checkpoint.folder),
            expected=TOKENIZER,
            fix="AutoTokenizer.from_pretrained(MODEL).save_pretrained(MODEL) writes one",
        )
    tokenizer = Tokenizer.from_str(data.decode())
    tokenizer.no_truncation()
    return tokenizer


def _counted(tokenizer: Any, texts: Iterable[str]) -> Counter[int]:
    counted: Counter[int] = Counter()
    for text in texts:
        counted.update(tokenizer.encode(text, add_special_tokens=False).ids)
    return counted


def _listed(path: Path) -> list[Any] | None:
    """The list a JSON file holds; None for any other text."""
    if not path.is_file():
        raise UsageError("there is no such file", where="--vocab", got=str(path), expected="a file, or a number")
    if path.suffix != ".json":
        return None
    data = read_json(path, _LARGEST_FILE, UsageError, "the list of tokens")
    return data if isinstance(data, list) else None


def _lines(path: Path) -> Iterable[str]:
    """A text in pieces that end where lines do.

    Raises:
        UsageError: It is no UTF-8, or larger than a corpus need be.
    """
    text = read_text(path, UsageError, "this corpus", _LARGEST_FILE)
    return re.split(r"(?<=\n)(?=[^\n])", text)  # empty lines are tokens together
