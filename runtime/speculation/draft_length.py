"""How long a smaller model's next draft is: as long as pays, by what was accepted and by what its steps cost.

With acceptance ``a`` of a token whose predecessors were accepted, a step with a draft of N tokens gives
``(1 - a^(N + 1)) / (1 - a)`` tokens (Leviathan et al., arXiv 2211.17192, equation 1) and costs ``1 + N c`` plain steps,
where ``c`` is a step of the smaller model by one of the larger. The bar of a pair is where the quotient is 1.
"""

from __future__ import annotations

import math

from luvc_export.runtime.speculation.draft_costs import CHECKING, LOOKED_AT, DraftCosts

#: Weight of a step's outcome in those after it: about the last 20 tokens count.
FORGETTING = 0.95
#: Steps without drafts where none would pay, at most; then one token is tried.
LONGEST_PAUSE = 16
#: Tokens after which an answer that has no drafts is looked at again: one that goes on may be worth the reading.
LOOKED_AT_AGAIN = 8


def tokens_a_step(acceptance: float, drafted: int) -> float:
    """Tokens that a step with a draft of ``drafted`` tokens gives, the model's own one included.

    ``acceptance`` is the share of drafted tokens that are accepted where all before them were, 0.0 to 1.0.
    """
    if acceptance >= 1:
        return drafted + 1.0
    return (1 - acceptance ** (drafted + 1)) / (1 - acceptance)


def times_faster(acceptance: float, drafted: int, cost: float, checking: float = CHECKING) -> float:
    """Decoding with drafts of ``drafted`` tokens by decoding without, before what the smaller model reads first.

    Args:
        acceptance: See ``tokens_a_step``.
        drafted: Tokens of a draft.
        cost: A step of the smaller model by one of the larger.
        checking: What a token more in a step of the larger model costs, by a step of one token.
    """
    return tokens_a_step(acceptance, drafted) / (1 + drafted * (cost + checking))


def needed_acceptance(drafted: int, cost: float, checking: float = CHECKING) -> float:
    """The bar of a pair: acceptance from which drafts of ``drafted`` tokens pay; 1.0 and above where none does."""
    if times_faster(1.0, drafted, cost, checking) <= 1:
        return math.inf
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if times_faster(middle, drafted, cost, checking) >= 1 else (middle, high)
    return high


class DraftLength:
    """Of the drafts of one answer.

    Args:
        most: Tokens of a draft at most.
        costs: Of the pair of models. Told how the drafts fared.
    """

    def __init__(self, most: int, costs: DraftCosts) -> None:
        self.most, self.costs = most, costs
        self._looked_at, self._accepted = LOOKED_AT, LOOKED_AT * costs.acceptance
        self._misses = self._pause = 0
        self._tries: bool | None = None

    @property
    def acceptance(self) -> float:
        """Of a token whose predecessors were accepted, as of late."""
        return self._accepted / self._looked_at

    def next(self, room: int, rows: int = 1, done: int = 0, begun: bool = True) -> int:
        """Tokens of the next draft; 0 where none pays.

        Args:
            room: How many at most.
            rows: That share a step.
            done: Tokens that the answer has.
            begun: Whether the smaller model has read the prompt; where not, drafts are to save that too.
        """
        if room <= 0 or self.costs.wants_plain(rows):
            return 0
        if self._pause:
            self._pause -= 1
            return 0
        gain = self.costs.realised_gain(rows)
        faster = {
            drafted: gain * times_faster(self.acceptance, drafted, *self.costs.relative(rows, drafted))
            for drafted in range(1, min(room, self.most) + 1)
        }
        best = max(faster, key=lambda drafted: faster[drafted])
        if not begun and not self._begins(faster[best], rows, done):
            self._pause = LOOKED_AT_AGAIN
            return 0
        wanted = best if faster[best] > 1 or self._tries else 1
        self.costs.promise(rows, faster[wanted] / gain)
        if faster[best] > 1:
            self._misses = 0
            return best
        self._misses += 1
        self._pause = min(LONGEST_PAUSE, 2**self._misses)
        return wanted

    def _begins(self, faster: float, rows: int, done: int) -> bool:
        """Whether what drafts are expected to save is more than reading the prompt takes; now and then, whether or not.

        As many tokens are expected as are left of a usual answer, or as many as there are: who has gone on, goes on.
        """
        left = max(self.costs.usual - done, done)
        if faster > 1 and left * (1 - 1 / faster) > self.costs.reading(rows):
            self.costs.pays()
            return True
        if self._tries is None:
            self._tries = self.costs.tries()
        return self._tries

    def record_outcome(self, drafted: int, accepted: int) -> None:
        """Learn that of ``drafted`` tokens the first ``accepted`` were taken."""
        if not drafted:
            return
        self.costs.record_outcome(min(drafted, accepted + 1), accepted)
        looked_at, kept = min(drafted, accepted + 1), FORGETTING ** min(drafted, accepted + 1)
        self._looked_at = kept * self._looked_at + looked_at
        self._accepted = kept * self._accepted + accepted
