"""Choosing and stopping: the tokens of one answer so far, and whether it has ended."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal, Protocol

from luvc_export.runtime.generation.detokenise import TextStream
from luvc_export.runtime.generation.logits import Logits, TokenLogprob, token_logprob
from luvc_export.runtime.generation.sampler import Sampler, check_finite
from luvc_export.runtime.generation.sampling import Sampling
from luvc_export.runtime.model import StepResult
from luvc_export.runtime.prompt.encoder import PromptEncoder


class TokenChooser(Protocol):
    """What a row asks which token comes next.

    Attributes:
        ids: Tokens so far.
        budget: As many at most.
        done: The answer has ended.
        prompt: The prompt's tokens; none where nobody reads them.
    """

    ids: list[int]
    budget: int
    done: bool
    prompt: Sequence[int]

    @property
    def wants_logits(self) -> bool:
        """The most likely token is not enough: all logits must come to the host."""

    @property
    def newest(self) -> int:
        """The token to go on with."""

    def certain(self) -> Sequence[int]:
        """Tokens that can only follow, before anything is computed: what a grammar leaves no choice about."""

    def take(self, step: StepResult) -> None:
        """Choose a token of what a step gave; whatever is wrong with the choice ends this answer alone.

        Raises:
            CheckFailed: The logits are not finite, or leave no token.
        """


class TokenSequence:
    """An answer's tokens and text. Follows ``TokenChooser``.

    Args:
        encoder: Turns tokens into text.
        options: How tokens are chosen, and the strings that end the answer.
        ends: Tokens that end it, beside those of ``options``.
        budget: Tokens at most.
        prompt: The prompt's tokens, for what reads them.
        marks: See ``TextStream``.
    """

    def __init__(
        self,
        encoder: PromptEncoder,
        options: Sampling,
        ends: frozenset[int],
        budget: int,
        prompt: Sequence[int] = (),
        marks: Mapping[int, str] | None = None,
    ) -> None:
        ends = options.ends(ends)
        self._sampler, self._shows_end = Sampler(options, prompt, ends), options.include_stop_str_in_output
        self._text = TextStream(encoder.tokenizer, options.stop, options.include_stop_str_in_output, marks)
        self._ends, self.budget, self.prompt = ends, budget, prompt
        self.ids: list[int] = []
        #: One for each of ``ids`` where they are asked for.
        self.logprobs: list[TokenLogprob] = []
        self.done = False
        self._unread: list[str] = []

    def take(self, step: StepResult) -> None:
        """See ``TokenChooser``."""
        if step.logits is not None and (step.logit is None or self.wants_logits):
            self.ids.append(self._sampled(step.logits))
        else:
            assert step.token is not None and step.logit is not None
            check_finite(step.logit, len(self.ids))
            self.ids.append(step.token)
        self._unread.append(self._grow())

    @property
    def newest(self) -> int:
        """See ``TokenChooser``."""
        return self.ids[-1]

    def certain(self) -> Sequence[int]:
        """See ``TokenChooser``."""
        return self._sampler.certain(self.ids)

    @property
    def wants_logits(self) -> bool:
        """See ``TokenChooser``."""
        return not self._sampler.sampling.takes_the_best

    @property
    def asked_logprobs(self) -> tuple[TokenLogprob, ...] | None:
        """``logprobs``, or None where nobody asked."""
        return None if self._sampler.sampling.logprobs is None else tuple(self.logprobs)

    def piece(self) -> str:
        """The text that was added since this was last asked; at the end, what was held back too."""
        text, self._unread = "".join(self._unread), []
        return text

    @property
    def text(self) -> str:
        """All of it."""
        return self._text.text

    @property
    def finish_reason(self) -> Literal["stop", "length"]:
        """``stop`` after an end token or a stop string."""
        return "stop" if self._text.stopped or self.at_end else "length"

    @property
    def at_end(self) -> bool:
        """The newest token is one that ends the answer."""
        return self.ids[-1] in self._ends

    def _sampled(self, logits: Logits) -> int:
        token, top = self._sampler(logits, len(self.ids), self.ids), self._sampler.sampling.logprobs
        if top is not None:
            self.logprobs.append(token_logprob(logits, token, top))
        return token

    def _grow(self) -> str:
        """The text that the newest token adds; sets ``done``."""
        if self.at_end:
            self.done = True
            return (self._text.push(self.newest) if self._shows_end else "") + self._text.flush()
        text = self._text.push(self.newest)
        if self._text.stopped or len(self.ids) == self.budget:
            self.done = True
            return text + self._text.flush()
        return text


class GreedyTokens:
    """The most likely tokens, without text: what comparisons and benches ask for. Follows ``TokenChooser``.

    Args:
        budget: Tokens at most.
        ends: Tokens that end it.
        forced: Tokens to go on with in place of its own, so that one that differs does not change all that follow;
            as many as ``budget``.
        keep_logits: Keep the logits of every step (``logits``).
        prompt: The prompt's tokens, for drafts.
    """

    def __init__(
        self,
        budget: int,
        ends: Collection[int] = (),
        forced: Sequence[int] | None = None,
        keep_logits: bool = False,
        prompt: Sequence[int] = (),
    ) -> None:
        self.budget, self._ends, self._forced, self._keeps = budget, ends, forced, keep_logits
        self.prompt = prompt
        self.ids: list[int] = []
        #: float32 [vocab] of each of ``ids``, where they are kept.
        self.logits: list[Logits] = []
        self.done = False

    def take(self, step: StepResult) -> None:
        """See ``TokenChooser``; nothing is checked, since what is compared may be wrong."""
        if step.token is not None:
            self.ids.append(step.token)
        else:
            assert step.logits is not None
            self.ids.append(int(step.logits.argmax()))
        if self._keeps and step.logits is not None:
            self.logits.append(step.logits)
        self.done = len(self.ids) == self.budget or self.ids[-1] in self._ends

    @property
    def newest(self) -> int:
        """See ``TokenChooser``."""
        return self.ids[-1] if self._forced is None else self._forced[len(self.ids) - 1]

    def certain(self) -> Sequence[int]:
        """See ``TokenChooser``."""
        return ()

    @property
    def wants_logits(self) -> bool:
        """See ``TokenChooser``."""
        return self._keeps
