"""How long a smaller model's next draft is: as long as pays, by what was accepted and by what its steps cost.

With acceptance ``a`` of a token whose predecessors were accepted, a step with a draft of N tokens gives
``(1 - a^(N + 1)) / (1 - a)`` tokens (Leviathan et al., arXiv 2211.17192, equation 1) and costs ``1 + N c`` plain steps,
where ``c`` is a step of the smaller model by one of the larger. The bar of a pair is where the quotient is 1.
"""

from __future__ import annotations

import math

#: What the first drafts are chosen by: as if so many tokens had been looked at, and so many of them accepted.
LOOKED_AT, ACCEPTED = 4.0, 3.0
#: Weight of a step's outcome in those after it: about the last 20 tokens count.
FORGETTING = 0.95
#: Steps without drafts where none would pay, at most; then one token is tried.
LONGEST_PAUSE = 16
#: Of a token more to check, by a plain step, where nobody has measured it: a step of few tokens reads weights once.
CHECKING = 0.02


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
    """Of the drafts of one answer. The same answers get the same drafts: no clock is asked.

    Args:
        most: Tokens of a draft at most.
        cost: See ``times_faster``.
    """

    def __init__(self, most: int, cost: float) -> None:
        self.most, self._cost = most, cost
        self._looked_at, self._accepted = LOOKED_AT, ACCEPTED
        self._misses = self._pause = 0

    @property
    def acceptance(self) -> float:
        """Of a token whose predecessors were accepted, as of late."""
        return self._accepted / self._looked_at

    def next(self, room: int) -> int:
        """Tokens of the next draft; 0 where none pays.

        Args:
            room: How many at most.
        """
        if room <= 0:
            return 0
        if self._pause:
            self._pause -= 1
            return 0
        lengths = range(1, min(room, self.most) + 1)
        best = max(lengths, key=lambda drafted: times_faster(self.acceptance, drafted, self._cost))
        if times_faster(self.acceptance, best, self._cost) > 1:
            self._misses = 0
            return best
        self._misses += 1
        self._pause = min(LONGEST_PAUSE, 2**self._misses)
        return 1

    def told(self, drafted: int, accepted: int) -> None:
        """Learn that of ``drafted`` tokens the first ``accepted`` were taken."""
        if not drafted:
            return
        looked_at, kept = min(drafted, accepted + 1), FORGETTING ** min(drafted, accepted + 1)
        self._looked_at = kept * self._looked_at + looked_at
        self._accepted = kept * self._accepted + accepted
