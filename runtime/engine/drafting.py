"""Drafts as a policy of a step: each answer is fed its newest token and a draft behind it, and keeps what agrees.

A rejected token lies in the caches until they are packed, masked: it is as if it were padding. Every answer keeps its
own count.

Drafts by a smaller model are what it would say next, token by token, about the same pictures. It takes its most likely
token each time. A token that the larger model did not choose is given up by restoring the snapshot taken before it.
Where its encoder is the larger model's, it takes the features that one made (``LoadedPlan.draft_features``) and reads
the prompt alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from luvc_export.runtime.engine.host_slots import HostSlots
from luvc_export.runtime.engine.job import Answer
from luvc_export.runtime.generation.timing import DraftCounts
from luvc_export.runtime.loaded_plan import LoadedPlan
from luvc_export.runtime.model import TokensPrompt
from luvc_export.runtime.prompt.request import Request
from luvc_export.runtime.speculation.draft_costs import DraftCosts
from luvc_export.runtime.speculation.draft_length import DraftLength
from luvc_export.runtime.speculation.lookup import Drafts, Lookup
from luvc_export.runtime.state import State, VisualFeatures


class DraftModel(Drafts):
    """See ``lookup.Drafts``: what a smaller model would say.

    Args:
        loaded: The smaller model; ``request.check_fits`` has accepted it.
        request: What is answered, all of it: read when the first draft is made.
        length: How long drafts are.
        features: What the larger model's encoder, which is equal, made of all pictures; None where they are encoded
            here.
        rows: How many answers share a step of the larger model.
    """

    def __init__(
        self,
        loaded: LoadedPlan,
        request: Request,
        length: DraftLength,
        features: VisualFeatures | None = None,
        rows: Callable[[], int] = lambda: 1,
    ) -> None:
        self._loaded, self._request, self._length, self._rows = loaded, request, length, rows
        pictures = len(request.images)
        whole = pictures and features is not None and len(features.positions) == pictures
        self._features = features if whole else None
        self._slots = HostSlots(loaded.graphs)
        #: Snapshots after so many tokens of the answer, and what those tokens were in the longest of them.
        self._snapshots: list[tuple[int, State]] = []
        self._fed: list[int] = []

    def propose(self, answer: Sequence[int], room: int, certain: Sequence[int] = ()) -> list[int]:
        """See ``lookup.Drafts``."""
        text, draft = [*answer, *certain], list[int]()
        costs, rows = self._length.costs, self._rows()
        begin = costs.now()
        wanted = self._length.next(room, rows, len(answer), begun=bool(self._snapshots))
        if not wanted:
            return draft
        if not self._snapshots:
            begin = costs.now()
            self._snapshots = [(0, self._read())]
            costs.read(rows, costs.now() - begin)
            begin = costs.now()
        count, snapshot = self._back_to(text)
        slot, rest = self._slots.restore(snapshot), text[count:]
        try:
            while len(draft) < wanted:
                result = self._slots.step({slot: rest}).read()[slot]
                if result.failed is not None:
                    raise result.failed
                assert result.logits is not None
                self._fed, count = [*text, *draft], count + len(rest)
                self._snapshots.append((count, self._slots.snapshot(slot)))
                rest = [int(result.logits[-1].argmax())]
                draft += rest
                if rest[0] in self._loaded.ends:
                    break
        finally:
            self._slots.leave(slot)
        del self._snapshots[: -self._length.most - 1]
        costs.drafted(rows, len(draft), costs.now() - begin)
        return draft

    def record_outcome(self, drafted: int, accepted: int) -> None:
        """See ``lookup.Drafts``."""
        self._length.record_outcome(drafted, accepted)

    def _back_to(self, text: Sequence[int]) -> tuple[int, State]:
        """The latest snapshot all of whose tokens ``text`` has, before its last one."""
        same = next((at for at, (a, b) in enumerate(zip(self._fed, text, strict=False)) if a != b), len(self._fed))
        self._snapshots = [one for one in self._snapshots if one[0] <= min(same, len(text) - 1)]
        if not self._snapshots:
            self._snapshots = [(0, self._read())]
        return self._snapshots[-1]

    def _read(self) -> State:
        """Where the smaller model stands after the prompt and its pictures."""
        request, loaded, features = self._request, self._loaded, self._features
        if features is None:
            loaded.load(images=len(request.images) > 0)
            features = loaded.encode_images(*request.shown())
        else:
            loaded.load(images=False)
            features = loaded.graphs.adopted(features, request.padding)
        (joined,) = self._slots.join([TokensPrompt(request.token_ids, features, request.blocks)])
        snapshot = self._slots.snapshot(joined.slot)
        self._slots.leave(joined.slot)
        return snapshot


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
