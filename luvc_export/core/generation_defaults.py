"""How a model's makers meant answers to be drawn: what transformers' ``generate`` does unless told otherwise."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class GenerationDefaults:
    """Fields of ``generation_config.json`` by transformers' names; a field at its default changes nothing.

    Args:
        temperature: 0 takes the most likely token (``do_sample`` is false).
        top_k: See ``runtime.generation.sampling.Sampling``; resolved as ``generate`` does, 50 where it draws and the
            file says nothing.
        top_p: See there.
        min_p: See there.
        repetition_penalty: See there.
        no_repeat_ngram_size: See ``runtime.generation.token_rules``, as for the fields that follow.
        bad_words_ids: Sequences of tokens.
        suppress_tokens: Tokens.
        begin_suppress_tokens: Tokens.
        forced_eos_token_id: Tokens.
        min_new_tokens: Tokens.
        max_new_tokens: Tokens; None for as many as fit.
        unsupported: Fields of the file that would change answers and are not followed.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    suppress_tokens: tuple[int, ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()
    forced_eos_token_id: tuple[int, ...] = ()
    min_new_tokens: int = 0
    max_new_tokens: int | None = None
    unsupported: tuple[str, ...] = ()

    def options(self) -> dict[str, Any]:
        """What differs from greedy decoding, by the names of ``Sampling``."""
        fields = [item for item in dataclasses.fields(self) if item.name != "unsupported"]
        values = {item.name: getattr(self, item.name) for item in fields}
        return {item.name: values[item.name] for item in fields if values[item.name] != item.default}
