"""Drafts as a policy of a step: each answer is fed its newest token and a draft behind it, and keeps what agrees.

A rejected token lies in the caches until they are packed, masked: it is as if it were padding. Every answer keeps its
own count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from luvc_export.runtime.engine.draft_model import DraftModel
from luvc_export.runtime.engine.job import Answer
from luvc_export.runtime.generation.timing import DraftCounts
from luvc_export.runtime.loaded_plan import LoadedPlan
from luvc_export.runtime.speculation.draft_costs import DraftCosts
from luvc_export.runtime.speculation.draft_length import DraftLength
from luvc_export.runtime.speculation.lookup import Drafts, Lookup


class Drafting:
    """Makes the drafts of all answers of a plan, and learns how they fared.

    Args:
        loaded: Says how drafts are made (``LoadedPlan.speculation``).
    """

    def __init__(self, loaded: LoadedPlan) -> None:
        assert loaded.speculation is not None
        self._speculation, self._model = loaded.speculation, loaded.draft_model
        self._image_token = loaded.bundle.manifest.prompt.image_token_id
        costs = loaded.draft_costs
        self._costs = DraftCosts(0.0, clock=None) if costs is None else costs
        self._drafters: dict[Answer, Drafts] = {}
        self._certain: dict[Answer, int] = {}
        self._rows = 0

    def now(self) -> float:
        """Seconds of the clock that costs are taken by."""
        return self._costs.now()

    def propose(self, answers: Sequence[Answer]) -> dict[Answer, list[int]]:
        """Tokens to try after each answer's newest; none beyond its budget, whose last token needs no draft.

        What making them raises (a smaller model reads the request too) ends that answer alone, at its next token.
        """
        self._drafters = {answer: drafts for answer, drafts in self._drafters.items() if answer in answers}
        self._rows, self._certain = len(answers), {}
        drafts: dict[Answer, list[int]] = {}
        for answer in answers:
            try:
                drafts[answer] = self._draft(answer)
            except Exception as error:
                drafts[answer] = []
                answer.failed = error
        return drafts

    def settle(
        self, taken: Mapping[Answer, int], drafts: Mapping[Answer, Sequence[int]], seconds: float
    ) -> DraftCounts:
        """Learn how many tokens each answer took of a step of ``seconds``; the counts of all of them together."""
        counts = DraftCounts()
        for answer, count in taken.items():
            draft, known = drafts.get(answer, []), self._certain.get(answer, 0)
            self._drafter(answer).record_outcome(len(draft) - known, max(0, count - 1 - known))
            stopped = count <= len(draft) and not answer.ended
            own = DraftCounts(1, int(len(draft) > 0), len(draft), count - 1, int(stopped))
            answer.drafts = own if answer.drafts is None else answer.drafts + own
            counts += own
            if answer.ended:
                self._costs.ended(len(answer.chooser.ids))
        if taken:
            width = 1 + max(map(len, drafts.values()), default=0)
            self._costs.stepped(len(taken), width - 1, 1 + counts.accepted / len(taken), seconds)
        return counts

    def _draft(self, answer: Answer) -> list[int]:
        """What a grammar leaves no choice about, as far as there is room, and a draft behind that."""
        room = min(self._speculation.tokens, answer.chooser.budget - len(answer.chooser.ids) - 1)
        certain = list(answer.chooser.certain()[: max(0, room)])
        self._certain[answer] = len(certain)
        if room <= len(certain):
            return certain
        return [*certain, *self._drafter(answer).propose(answer.chooser.ids, room - len(certain), certain)]

    def _drafter(self, answer: Answer) -> Drafts:
        if answer not in self._drafters:
            most = self._speculation.tokens
            if self._model is not None and answer.job is not None:
                length = DraftLength(most, self._costs)
                features, request = answer.features, answer.job.request
                self._drafters[answer] = DraftModel(self._model, request, length, features, lambda: self._rows)
            else:
                self._drafters[answer] = Lookup(answer.chooser.prompt, most, {self._image_token})
        return self._drafters[answer]
