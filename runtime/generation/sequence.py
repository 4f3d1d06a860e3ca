"""One answer in the making: the tokens chosen so far, their text, and whether it has ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from luvc_export.runtime.generation.detokenise import TextStream
from luvc_export.runtime.generation.logits import Logits, TokenLogprob, token_logprob
from luvc_export.runtime.generation.sampling import Sampler, Sampling, check_finite
from luvc_export.runtime.prompt.encoder import PromptEncoder


class TokenSequence:
    """Takes logits one step at a time.

    Args:
        encoder: Turns tokens into text.
        options: How tokens are chosen, and the strings that end the answer.
        ends: Tokens that end it.
        budget: Tokens at most.
        prompt: The prompt's tokens, for what reads them.
    """

    def __init__(
        self,
        encoder: PromptEncoder,
        options: Sampling,
        ends: frozenset[int],
        budget: int,
        prompt: Sequence[int] = (),
    ) -> None:
        self._sampler, self._text = Sampler(options, prompt, ends), TextStream(encoder.tokenizer, options.stop)
        self._ends, self.budget = ends, budget
        self.ids: list[int] = []
        #: One for each of ``ids`` where they are asked for.
        self.logprobs: list[TokenLogprob] = []
        self.done = False

    def sample(self, logits: Logits) -> None:
        """Append the token that sampling draws from float32 logits [vocab].

        Raises:
            CheckFailed: See ``Sampler``.
        """
        token, top = self._sampler(logits, len(self.ids), self.ids), self._sampler.sampling.logprobs
        if top is not None:
            self.logprobs.append(token_logprob(logits, token, top))
        self.ids.append(token)

    def append(self, token: int, logit: float) -> None:
        """Append the most likely token, sampled elsewhere.

        Raises:
            CheckFailed: Its logit is not finite.
        """
        check_finite(logit, len(self.ids))
        self.ids.append(token)

    @property
    def greedy(self) -> bool:
        """The most likely token is always taken: nobody needs the other logits."""
        return self._sampler.sampling.takes_the_best

    @property
    def asked_logprobs(self) -> tuple[TokenLogprob, ...] | None:
        """``logprobs``, or None where nobody asked."""
        return None if self._sampler.sampling.logprobs is None else tuple(self.logprobs)

    def piece(self) -> str:
        """The text that the last token adds, and at the end what was held back; sets ``done``."""
        if self.ids[-1] in self._ends:
            self.done = True
            return self._text.flush()
        found = self._text.push(self.ids[-1])
        if self._text.stopped or len(self.ids) == self.budget:
            self.done = True
            return found + self._text.flush()
        return found

    @property
    def text(self) -> str:
        """All of it."""
        return self._text.text

    @property
    def finish_reason(self) -> Literal["stop", "length"]:
        """``stop`` after an end token or a stop string."""
        return "stop" if self._text.stopped or self.ids[-1] in self._ends else "length"
