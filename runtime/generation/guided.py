"""Answers of a JSON schema, a regular expression or a grammar: a token mask (llguidance, the extra ``guided``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from time import thread_time
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from luvc_export.errors import CheckFailed, UsageError
from luvc_export.runtime.generation.grammar_text import library, matcher, tokens_of
from luvc_export.runtime.generation.grammar_trials import GrammarTrials
from luvc_export.runtime.generation.sampling import GUIDES, Sampling


@dataclass
class MaskWork:
    """What masks of an answer, or of several together, took and may take: all rows wait for a mask.

    Args:
        first: Seconds of computing.
        each: More of them for each token.
        seconds: Taken so far.
        tokens: Of these answers so far.
    """

    first: float = 0.3
    each: float = 0.02
    seconds: float = 0.0
    tokens: int = 0


class Grammars:
    """Compiles grammars for one tokenizer, which is read when the first one is.

    Args:
        tokenizer: The bundle's, from ``tokenizer.json``.
        vocab: Logits of a step; ids beyond the tokenizer's are never allowed.
        ends: Tokens that end an answer, allowed once the grammar is satisfied.
    """

    def __init__(self, tokenizer: Tokenizer, vocab: int, ends: frozenset[int]) -> None:
        self._source, self._vocab, self._ends = tokenizer, vocab, sorted(ends)
        self._trials = GrammarTrials(tokenizer, vocab, self._ends)

    def guided(self, options: Sampling, work: MaskWork | None = None) -> Sampling:
        """``options`` with the mask that their schema, pattern or grammar means; themselves where they have none.

        ``work`` is what the masks of all answers with these options may take together; without, each has its own.

        Raises:
            UsageError: It cannot be compiled.
            MachineError: llguidance is not installed.
        """
        where = next((name for name in GUIDES if getattr(options, name) is not None), None)
        if where is None:
            return options
        return self.held(options, where, getattr(options, where), work)[0]

    def held(
        self, options: Sampling, where: str, asked: Any, work: MaskWork | None = None
    ) -> tuple[Sampling, tuple[str, ...]]:
        """``options`` with the mask that ``asked`` means, and nothing else that holds answers.

        Args:
            options: How tokens are chosen.
            where: One of ``GUIDES``, or ``tools``, see ``grammar_text.grammar_of_tools``.
            asked: Of that kind.
            work: See ``guided``.

        Returns:
            The options, and tools whose schemas are not held.

        Raises:
            UsageError: It cannot be compiled.
            MachineError: llguidance is not installed.
        """
        library()
        written = self._trials.written(where, asked)
        tokens, vocab, ends = self._tokens, self._vocab, self._ends
        first = matcher(tokens, written.grammar, where)
        bare = replace(options, json_schema=None, regex=None, grammar=None)
        mask = lambda: _GrammarMask(first.deep_copy(), tokens, vocab, ends, where, work or MaskWork())  # noqa: E731
        return replace(bare, mask=mask), written.unheld

    @cached_property
    def _tokens(self) -> Any:
        try:
            return tokens_of(self._source.to_str(), self._vocab, self._ends)
        except (ValueError, RuntimeError) as error:
            raise UsageError(
                "this tokenizer cannot be guided: its tokens are no bytes",
                where="tokenizer.json",
                got=str(error)[:300],
                expected="a byte-level or byte-fallback tokenizer",
            ) from error


class _GrammarMask:
    """The mask of one answer: told all its tokens at every step, it consumes those that are new.

    Follows ``logits.ForeseeingMask``.

    Raises:
        UsageError: A mask takes more work than is allowed, or a token is not of the grammar. The library says so in
            its state alone, and its mask is then that of an end.
    """

    def __init__(self, matcher: Any, tokens: Any, vocab: int, ends: Sequence[int], where: str, work: MaskWork) -> None:
        self._matcher, self._vocab, self._ends, self._told, self._where = matcher, vocab, ends, 0, where
        self._tokens, self._work = tokens, work

    def __call__(self, answer: Sequence[int]) -> NDArray[np.bool_]:
        begin = thread_time()
        allowed = self._allowed(answer)
        self._work.seconds += thread_time() - begin
        if (work := self._work).seconds > work.first + work.each * work.tokens:
            raise self._too_much(f"{work.seconds:.2f} s of computing")
        return allowed

    def _allowed(self, answer: Sequence[int]) -> NDArray[np.bool_]:
        self._consume(answer)
        matcher = self._matcher
        allowed = np.zeros(self._vocab, np.bool_)
        if not matcher.is_stopped():
            bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
            allowed[: min(self._vocab, bits.size)] = bits[: self._vocab].astype(np.bool_)
            if np.count_nonzero(allowed) == 1 and not matcher.validate_tokens([only := int(allowed.argmax())]):
                # It is a special token whose name has to follow, which the library refuses then: the name is spelt.
                text = matcher.compute_ff_bytes().decode(errors="ignore")
                allowed[only], allowed[self._tokens.greedy_tokenize(text)[:1]] = False, True
        if matcher.is_stopped() or matcher.is_accepting():
            allowed[list(self._ends)] = True
        if matcher.is_error():
            raise self._too_much(matcher.get_error()[:300])
        return allowed

    def _too_much(self, got: str) -> UsageError:
        return UsageError(
            "the answer takes too much work to hold to this",
            where=self._where,
            got=f"answer token {self._told}: {got}",
            fix="simplify its patterns: no repetitions inside repetitions, shorter alternatives",
        )

    def certain(self, answer: Sequence[int]) -> list[int]:
        """See ``logits.ForeseeingMask``: as the tokenizer would write it, which a model may write otherwise."""
        self._consume(answer)
        tokens = [] if self._matcher.is_stopped() else [int(token) for token in self._matcher.compute_ff_tokens()]
        return tokens[: self._matcher.validate_tokens(tokens)] if tokens else tokens

    def _consume(self, answer: Sequence[int]) -> None:
        for token in answer[self._told :]:
            if not self._matcher.consume_token(int(token)):
                got = self._matcher.get_error()[:300]
                if "satisfy the grammar" not in got:
                    raise self._too_much(got)
                what = "the grammar refuses a token it allowed"
                raise CheckFailed(what, where=f"answer token {self._told}", got=got)
            self._told += 1
            self._work.tokens += 1
