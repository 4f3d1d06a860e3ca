"""Drafts by a smaller model: what it would say next, token by token, about the same pictures.

It takes its most likely token each time. A token that the larger model did not choose is given up by restoring the
snapshot taken before it. Where its encoder is the larger model's, it takes the features that one made
(``LoadedPlan.draft_features``) and reads the prompt alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from luvc_export.runtime.engine.host_slots import HostSlots
from luvc_export.runtime.loaded_plan import LoadedPlan
from luvc_export.runtime.model import TokensPrompt
from luvc_export.runtime.prompt.request import Request
from luvc_export.runtime.speculation.draft_length import DraftLength
from luvc_export.runtime.speculation.lookup import Drafts
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
