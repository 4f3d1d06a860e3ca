"""A comparison judged, as data and as lines of text; which tensor, in the order of computing, departs first.

Every gate is one line, PASSED or FAILED, with its number, its limit and the reason.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from luvc_export.calibration.intervals import accuracy
from luvc_export.calibration.parity.compare import Comparison
from luvc_export.calibration.parity.metrics import Difference
from luvc_export.calibration.parity.tolerances import RANKS, RETENTION, Limit, Tolerances, tolerances
from luvc_export.calibration.runners.base import LOGITS, VECTORS, VISION, Runner


@dataclass(frozen=True)
class Gate:
    """One verdict: ``got`` must be at most (``high``) or at least the limit. ``where`` says what was worst."""

    level: str
    name: str
    got: float
    limit: float
    high: bool
    why: str
    where: str = ""

    @classmethod
    def least(cls, level: str, name: str, got: float, limit: Limit, where: str = "") -> Gate:
        """``got`` must be at least the limit of the table."""
        return cls(level, name, got, limit.value, False, limit.why, where)

    @classmethod
    def most(cls, level: str, name: str, got: float, limit: Limit, where: str = "") -> Gate:
        """``got`` must be at most the limit of the table."""
        return cls(level, name, got, limit.value, True, limit.why, where)

    @property
    def passed(self) -> bool:
        """Whether the gate holds; what is not a number never does."""
        return bool(self.got <= self.limit) if self.high else bool(self.got >= self.limit)

    def line(self) -> str:
        """One line for people."""
        verdict, sign = "PASSED" if self.passed else "FAILED", "<=" if self.high else ">="
        where = f" ({self.where})" if self.where else ""
        return f"{verdict} | {self.level} | {self.name}: {self.got:.6g} {sign} {self.limit:.6g}{where}"


def check_gates(comparison: Comparison, retention: float = RETENTION.value) -> list[Gate]:
    """Every gate that applies: with one plan on both sides, tensors, tokens and answers; with two, retention."""
    limit = tolerances(comparison.reference.dtype, comparison.candidate.dtype)
    gates = [_nonfinite(comparison)]
    if comparison.same:
        gates += [*_tensors(comparison, limit), *_tokens(comparison, limit), *_answers(comparison, limit)]
    gates += _vectors(comparison, limit, retention)
    if comparison.answered and (not comparison.same or comparison.known):
        kept = comparison.retention()
        where = f"95 % interval {kept.low:.4f} to {kept.high:.4f}, {len(comparison.answered)} questions"
        if comparison.known and not any(comparison.right("reference")):
            where = "the reference answers nothing right: ask something it knows"
        floor = retention if not comparison.same else min(retention, limit.exact.value)
        gates.append(Gate("answers", "retention", kept.value, floor, False, RETENTION.why, where))
    return gates


def _vectors(comparison: Comparison, limit: Tolerances, retention: float) -> list[Gate]:
    """Of vectors: how far they are off, and their order; between two plans the order alone."""
    order, gaps = comparison.ranks, [item.vector for item in comparison.measured if item.vector is not None]
    if order is None:
        return []
    gates = []
    if comparison.same:
        errors = [gap.rel_l2 for gap in gaps]
        where = f"case {int(np.argmax(errors))}, {len(gaps)} vectors"
        gates.append(Gate.most("vectors", "relative L2 of vectors", max(errors), limit.rel_l2, where))
        gates.append(Gate.least("vectors", "cosine of vectors", min(gap.cosine for gap in gaps), limit.cosine))
    where = f"{order.pairs - order.alike} of {order.pairs} pairs further apart than {order.level:.3g} are turned around"
    floor = RANKS if comparison.same else Limit(retention, RETENTION.why)
    if order.pairs:
        gates.append(Gate.least("vectors", "pairs ordered alike", order.alike / order.pairs, floor, where))
    return gates


def _nonfinite(comparison: Comparison) -> Gate:
    count, where = 0, ""
    for number, item in enumerate(comparison.measured):
        for name, gap in item.tensors.items():
            if gap.nonfinite and not count:
                where = f"first in case {number}, {name}"
            count += gap.nonfinite
    return Gate("tensors", "elements that are not finite", count, 0, True, "no arithmetic excuses NaN", where)


def _tensors(comparison: Comparison, limit: Tolerances) -> list[Gate]:
    compared = [item for item in comparison.measured if item.tensors]
    if not compared:
        return [Gate("tensors", "cases compared", 0, 1, False, "nothing compared proves nothing")]

    def gate(name: str, pick: Callable[[Difference], float], bound: Limit, high: bool) -> Gate:
        worst, where = (-np.inf if high else np.inf), ""
        for number, item in enumerate(comparison.measured):
            for tensor, gap in item.tensors.items():
                value = pick(gap)
                if (value > worst if high else value < worst) or np.isnan(value):
                    worst, where = value, f"case {number}, {tensor}"
        return (Gate.most if high else Gate.least)("tensors", name, float(worst), bound, where)

    guesses = [item.prediction for item in compared if item.prediction]
    rows = sum(guess.rows for guess in guesses)
    agree = sum(guess.agree for guess in guesses) / max(rows, 1)
    kl = [guess.kl for guess in guesses]
    of_tensors = [
        gate("relative L2", lambda gap: gap.rel_l2, limit.rel_l2, True),
        gate("worst row, relative L2", lambda gap: gap.worst_row, limit.worst_row, True),
        gate("cosine", lambda gap: gap.cosine, limit.cosine, False),
    ]
    if comparison.ranks is not None:
        return of_tensors
    return [
        *of_tensors,
        Gate.most("tensors", "KL of predictions", max(kl, default=np.inf), limit.kl),
        Gate.least("tensors", "top-1 agreement", agree, limit.top1, f"{rows} positions, every case"),
    ]


def _tokens(comparison: Comparison, limit: Tolerances) -> list[Gate]:
    overlaps = [item for case in comparison.measured for item in case.overlap.values()]
    gates = []
    if units := [case.merged for case in comparison.measured if case.merged is not None]:
        total, alike = (sum(part) for part in zip(*units, strict=True))
        where = f"{total - alike} of {total} units are in a token of other units"
        gates.append(Gate.least("tokens", "units merged alike", alike / max(total, 1), limit.merged, where))
    if overlaps:
        kept = sum(item.kept for item in overlaps)
        shared = sum(item.shared for item in overlaps) / max(kept, 1)
        odd = sum(item.unexplained for item in overlaps)
        tied, after = sum(item.tied for item in overlaps), sum(item.after for item in overlaps)
        detail = f"{kept} kept tokens; {tied} in ties, {after} after an earlier difference, {odd} unexplained"
        gates.append(Gate.least("tokens", "kept-set overlap", shared, limit.overlap, detail))
        # of choices in rounds a reference that can be asked again shows ties, those of fp32's rounding alone
        shown = limit.unexplained.value == 0 and any(item.gap is not None for item in overlaps)
        if shown or "rounds" not in dict(comparison.reference.plan.llm.method.settings):
            gates.append(Gate.most("tokens", "kept tokens that no tie explains", odd / max(kept, 1), limit.unexplained))
    return gates


def _answers(comparison: Comparison, limit: Tolerances) -> list[Gate]:
    if not comparison.answered:
        return []
    parted = [item.diverged for item in comparison.answered if item.diverged is not None]
    where = f"earliest divergence at token {min(parted)}" if parted else f"{len(comparison.answered)} answers"
    alike = sum(item.edits == 0 for item in comparison.answered) / len(comparison.answered)
    edits = f"largest edit distance {max(item.edits for item in comparison.answered)}"
    return [
        Gate.least("tokens", "greedy agreement", 1 - len(parted) / len(comparison.answered), limit.greedy, where),
        Gate.least("answers", "same text", alike, limit.exact, edits),
    ]


@dataclass(frozen=True)
class LocatedTensor:
    """Worst case of one tensor: errors, whether it departs, and in which case it is worst."""

    tensor: str
    rel_l2: float
    worst_row: float
    max_abs: float
    cosine: float
    nonfinite: int
    departs: bool
    case: int


@dataclass(frozen=True)
class Located:
    """The first tensor that departs, and what computes it."""

    tensor: str
    suspect: str


def walk(comparison: Comparison, limit: Tolerances | None = None) -> list[LocatedTensor]:
    """Every tensor in order, worst over all cases."""
    limit = limit or tolerances(comparison.reference.dtype, comparison.candidate.dtype)
    names = list(dict.fromkeys(name for item in comparison.measured for name in item.tensors))
    steps = []
    for name in names:
        case, gap = max(
            ((number, item.tensors[name]) for number, item in enumerate(comparison.measured) if name in item.tensors),
            key=lambda pair: (pair[1].nonfinite, pair[1].rel_l2),
        )
        nonfinite = sum(item.tensors[name].nonfinite for item in comparison.measured if name in item.tensors)
        departs = bool(nonfinite or gap.rel_l2 > limit.rel_l2.value or gap.cosine < limit.cosine.value)
        steps.append(LocatedTensor(name, gap.rel_l2, gap.worst_row, gap.max_abs, gap.cosine, nonfinite, departs, case))
    return steps


def first(steps: list[LocatedTensor]) -> Located | None:
    """The first departing tensor, None if all agree."""
    bad = [step.tensor for step in steps if step.departs]
    if not bad:
        return None
    names = {step.tensor for step in steps}
    return Located(bad[0], _suspect(bad[0], names))


def _suspect(tensor: str, names: set[str]) -> str:
    if tensor.startswith(VISION):
        return "the vision graph, or the picture's preprocessing"
    if tensor in (LOGITS, VECTORS):
        return "the last layer's attention or MLP, the final norm, the output head or the pooling"
    match = re.fullmatch(r"layer (\d+) (\w+)", tensor)
    assert match is not None
    layer, part = int(match[1]), match[2]
    before = (
        f"layer {layer - 1}'s attention (its mask too) or MLP, or a prune before layer {layer}"
        if layer
        else ("the token embedding")
    )
    if part == "in":
        return before
    what = {"key": "key projection, or the rotary positions", "value": "value projection"}[part]
    own = f"layer {layer}'s input norm or {what}"
    return own if f"layer {layer} in" in names else f"{own}; or {before}"


@dataclass(frozen=True)
class ParityResult:
    """What ``luvc-export parity`` gives: the measurements, the gates, the walk through the layers."""

    comparison: Comparison
    gates: list[Gate]
    steps: list[LocatedTensor]
    located: Located | None

    @property
    def passed(self) -> bool:
        """Whether every gate holds."""
        return all(gate.passed for gate in self.gates)

    def lines(self, locate: bool = False) -> list[str]:
        """Lines for people, the verdict last."""
        comparison = self.comparison
        lines = [f"reference | {comparison.reference.name}, {comparison.reference.dtype}"]
        lines.append(f"candidate | {comparison.candidate.name}, {comparison.candidate.dtype}")
        lines.append(f"cases     | {len(comparison.measured)} tensor by tensor, {len(comparison.answered)} answered")
        lines += [f"note      | {note}" for note in comparison.notes]
        if locate:
            lines += [
                f"{'departs' if step.departs else 'ok     '} | {step.tensor}: relative L2 {step.rel_l2:.3g},"
                f" worst row {step.worst_row:.3g}, largest {step.max_abs:.3g}, case {step.case}"
                for step in self.steps
            ]
        lines += [gate.line() for gate in self.gates]
        if comparison.same and self.located and (locate or not self.passed):
            lines.append(f"first departs | {self.located.tensor}: look at {self.located.suspect}")
        failed = sum(not gate.passed for gate in self.gates)
        lines.append(
            f"PASSED | all {len(self.gates)} gates" if self.passed else f"FAILED | {failed} of {len(self.gates)} gates"
        )
        return lines

    def to_json(self) -> dict[str, Any]:
        """Plain data; numbers that are not finite become text."""
        comparison = self.comparison
        answers = []
        for item in comparison.answered:
            answers.append({**asdict(item), "reference": item.reference.text, "candidate": item.candidate.text})
        pictures = [item.picture for item in comparison.answered]
        data = {
            "passed": self.passed,
            "reference": _side(comparison.reference),
            "candidate": _side(comparison.candidate),
            "same_plan": comparison.same,
            "notes": comparison.notes,
            "gates": [{**asdict(gate), "passed": gate.passed} for gate in self.gates],
            "located": asdict(self.located) if self.located else None,
            "tensors": [asdict(step) for step in self.steps],
            "cases": [asdict(item) for item in comparison.measured],
            "ranks": asdict(comparison.ranks) if comparison.ranks else None,
            "answers": answers,
        }
        if comparison.answered and comparison.known:
            data["accuracy"] = {
                who: accuracy(comparison.right(who), pictures)._asdict() for who in ("reference", "candidate")
            }
            data["retention"] = comparison.retention()._asdict()
        plain: dict[str, Any] = json.loads(json.dumps(data), parse_constant=lambda name: str(float(name)))
        return plain


def _side(runner: Runner) -> dict[str, Any]:
    return {"name": runner.name, "dtype": runner.dtype, "plan": runner.plan.to_json()}
