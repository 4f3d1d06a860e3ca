"""The one row loop: answers of one plan take tokens step by step (draft, step, choose, stop).

``Slots`` compute, a ``TokenChooser`` chooses and stops. Whatever a chooser raises ends that answer alone. Where the
device chooses and nobody wants logits, the step after is under way while the host takes a step's tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from luvc_export.runtime.engine.host_slots import open_slots
from luvc_export.runtime.engine.job import Answer
from luvc_export.runtime.generation.sequence import TokenChooser
from luvc_export.runtime.generation.timing import DraftCounts
from luvc_export.runtime.graphs import Graphs
from luvc_export.runtime.model import DEVICE_CHOICE, PendingStep, StepResult, TokensPrompt

if TYPE_CHECKING:
    from luvc_export.runtime.engine.drafting import Drafting


class Answers:
    """Answers that grow under one plan.

    Args:
        graphs: Run the plan.
        several: More than one may grow at a time (``open_slots``).
        drafting: Drafts several tokens a step; None: one token a step.
    """

    def __init__(self, graphs: Graphs, several: bool, drafting: Drafting | None = None) -> None:
        self.graphs, self.slots = graphs, open_slots(graphs, several)
        self.growing: dict[int, Answer] = {}
        self._drafting = drafting
        self._picks = graphs.backend.capabilities.picks_tokens
        #: A step that is on its way, and whose it is: a slot may be another answer's by the time it is read.
        self._ahead: tuple[PendingStep, dict[int, Answer]] | None = None

    def begin(self, slot: int, answer: Answer, logits: NDArray[np.float32]) -> None:
        """Let an answer grow in a slot that joined, and give it its first token of ``logits``, float32 [vocab]."""
        self.growing[slot] = answer
        answer.take(StepResult(None, None, logits))

    def step(self) -> tuple[list[Answer], DraftCounts | None]:
        """Run the decoder once; the answers that took tokens, or failed, and how their drafts fared."""
        drafts = self._drafting.propose(list(self.growing.values())) if self._drafting is not None else {}
        clock = self._drafting.now if self._drafting is not None else perf_counter
        begin = clock()
        owners = dict(self.growing)
        try:
            results, owners = self._results(drafts)
        except Exception as error:  # nobody knows what the slots hold
            self._ahead = None
            results = {slot: StepResult(None, None, failed=error) for slot in owners}
        seconds, stepped = clock() - begin, dict[Answer, int]()
        for slot, result in results.items():
            answer = owners[slot]
            if self.growing.get(slot) is not answer:
                continue
            if answer.failed is not None:  # while its draft was made
                stepped[answer] = 1
                continue
            draft = drafts.get(answer, [])
            stepped[answer] = take_agreeing(answer, draft, result)
            if draft and answer.failed is None:
                self.slots.accept(slot, stepped[answer])
        counts = self._drafting.settle(stepped, drafts, seconds) if self._drafting is not None else None
        return [*stepped], counts

    def leave(self, slots: Sequence[int]) -> None:
        """Free slots; an answer that has ended says where it stands if its job keeps that.

        Raises:
            Exception: The slots are broken; nobody knows what they hold.
        """
        for slot in slots:
            answer = self.growing.pop(slot)
            if answer.job is not None:
                answer.nbytes = self.slots.nbytes(slot)
            if self._ahead is not None and self._ahead[1].get(slot) is answer:  # a step that was for nothing
                self.slots.accept(slot, 0)
            try:
                if answer.job is not None and answer.job.keeps and answer.failed is None:
                    answer.state = self.slots.snapshot(slot)
            except Exception as error:  # no memory for a copy, say
                answer.failed = error
            self.slots.leave(slot)

    @property
    def ended(self) -> list[int]:
        """Slots whose answer takes no more tokens."""
        return [slot for slot, answer in self.growing.items() if answer.ended]

    def _results(self, drafts: Mapping[Answer, Sequence[int]]) -> tuple[dict[int, StepResult], dict[int, Answer]]:
        growing = self.growing
        if self._ahead is not None and not any(growing.get(slot) is one for slot, one in self._ahead[1].items()):
            self._ahead = None
        pending, owners = self._ahead or self._start(drafts, chosen=False)
        self._ahead = None
        greedy = self._picks and all(not one.chooser.wants_logits and one.one_more for one in growing.values())
        if greedy and growing == owners and self.slots.can_choose(owners):
            self._ahead = self._start({}, chosen=True)
        return pending.read(), owners

    def _start(self, drafts: Mapping[Answer, Sequence[int]], chosen: bool) -> tuple[PendingStep, dict[int, Answer]]:
        """Put a step on its way: with the tokens there are, or with those that the step under way is choosing."""
        tokens: dict[int, Sequence[int]] = {
            slot: DEVICE_CHOICE if chosen else [answer.chooser.newest, *drafts.get(answer, ())]
            for slot, answer in self.growing.items()
        }
        logits = not self._picks or any(answer.chooser.wants_logits for answer in self.growing.values())
        return self.slots.step(tokens, logits), dict(self.growing)


def take_agreeing(answer: Answer, draft: Sequence[int], result: StepResult) -> int:
    """Let an answer choose its tokens as long as each is the one drafted for its place, and the one after.

    Every token is chosen by the answer's own chooser from the logits at its place, so the tokens are those of plain
    decoding, drawn ones too: a drafted token is accepted with the model's own probability of it, and what is drawn in
    its place has the distribution that rejection sampling asks for (Leviathan et al., arXiv 2211.17192, where a draft
    proposes one token for certain).

    Args:
        answer: Takes them; it may end, or fail, at any of them.
        draft: Tokens fed after the newest one.
        result: Logits after each token fed.

    Returns:
        How many it took: as many of the tokens fed belong to the answer, or one where it failed at the first.
    """
    logits = result.logits
    if logits is None or result.failed is not None:
        answer.take(result)
        return 1
    for place in range(len(draft) + 1):
        answer.take(StepResult(result.token, result.logit, logits[place]))
        if answer.ended or place == len(draft) or answer.chooser.newest != draft[place]:
            return place + 1
    raise AssertionError("the last place returns")


def answer_prompts(graphs: Graphs, prompts: Sequence[TokensPrompt], choosers: Sequence[TokenChooser]) -> None:
    """Answer prompts in one call of as many rows, without a job: what comparisons of graphs do.

    Raises:
        Exception: What ended one of the answers.
    """
    answers = Answers(graphs, several=True)
    grown = [Answer(chooser) for chooser in choosers]
    for joined, answer in zip(answers.slots.join(prompts), grown, strict=True):
        answers.begin(joined.slot, answer, joined.logits)
    answers.leave(answers.ended)
    while answers.growing:
        answers.step()
        answers.leave(answers.ended)
    for answer in grown:
        answer.check()
