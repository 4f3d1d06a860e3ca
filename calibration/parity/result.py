"""A comparison and its verdict as data and as lines of text."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from luvc_export.calibration.intervals import accuracy
from luvc_export.calibration.parity.compare import Comparison
from luvc_export.calibration.parity.gates import Gate
from luvc_export.calibration.parity.locate import Located, LocatedTensor


@dataclasses.dataclass(frozen=True)
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
            answers.append(
                {**dataclasses.asdict(item), "reference": item.reference.text, "candidate": item.candidate.text}
            )
        pictures = [item.picture for item in comparison.answered]
        data = {
            "passed": self.passed,
            "reference": {
                "name": comparison.reference.name,
                "dtype": comparison.reference.dtype,
                "plan": comparison.reference.plan.to_json(),
            },
            "candidate": {
                "name": comparison.candidate.name,
                "dtype": comparison.candidate.dtype,
                "plan": comparison.candidate.plan.to_json(),
            },
            "same_plan": comparison.same,
            "notes": comparison.notes,
            "gates": [{**dataclasses.asdict(gate), "passed": gate.passed} for gate in self.gates],
            "located": dataclasses.asdict(self.located) if self.located else None,
            "tensors": [dataclasses.asdict(step) for step in self.steps],
            "cases": [dataclasses.asdict(item) for item in comparison.measured],
            "answers": answers,
        }
        if comparison.answered and comparison.known:
            data["accuracy"] = {
                who: accuracy(comparison.right(who), pictures)._asdict() for who in ("reference", "candidate")
            }
            data["retention"] = comparison.retention()._asdict()
        plain: dict[str, Any] = _plain(data)
        return plain


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
