"""What the README and the pages promise, and what a trial found of it: holds, fails, or not tried.

Verdicts are read from the figures alone, so whoever checks a report reads them again.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from luvc_export.core.named_plans import DEFAULT_PLAN

Verdict = Literal["holds", "fails", "not tried"]
Steps = Mapping[str, Mapping[str, Any]]

#: A step of a plan whose engines are measured with more memory than this share over the prediction fails.
_MEMORY = 1.0
_MIB = 2**20


@dataclass(frozen=True)
class Claim:
    """A promise: what it says, words of a page of the project that make it, and the step whose result shows it.

    ``judge`` reads results: whether it holds, and the figure.
    """

    name: str
    says: str
    quote: str
    step: str
    page: str
    judge: Callable[[Steps], tuple[bool, str]]


@dataclass(frozen=True)
class Line:
    """A claim's verdict, the figure that it rests on, and why it was not tried."""

    claim: str
    says: str
    verdict: Verdict
    figure: str


def judge(steps: Steps) -> list[Line]:
    """A line for every claim."""
    lines = []
    for claim in CLAIMS:
        step = steps.get(claim.step, {})
        verdict: Verdict = "fails"
        if step.get("state") == "failed":
            figure = f"step {claim.step}: {step['why']}"
        elif step.get("state") != "done":
            verdict, figure = "not tried", str(step.get("why") or "the step was not asked for")
        else:
            holds, figure = claim.judge(steps)
            verdict = "holds" if holds else "fails"
        lines.append(Line(claim.name, claim.says, verdict, figure))
    return lines


def _case(steps: Steps, plan: str) -> Any:
    return next(case for case in steps["bench"]["result"]["cases"] if case["plan"] == plan)


def _by_run(steps: Steps, metric: str) -> float:
    """How many times longer without compression, run by run, the median."""
    with_, without = (_case(steps, plan)["runs"] for plan in (DEFAULT_PLAN, "none"))
    return float(statistics.median(b[metric] / a[metric] for a, b in zip(with_, without, strict=True)))


def _sooner(steps: Steps) -> tuple[bool, str]:
    first, prefill = _by_run(steps, "ttft_ms"), _by_run(steps, "prefill_ms")
    bench = _case(steps, DEFAULT_PLAN)
    where = f"{bench['backend']} in {bench['arithmetic']}"
    return first > 1, f"first token {first:.2f}x sooner, prefill {prefill:.2f}x, on {where}"


def _planned(steps: Steps) -> tuple[bool, str]:
    plan, held = steps["export"]["result"]["plans"][DEFAULT_PLAN], _case(steps, DEFAULT_PLAN)["visual_tokens"]
    return list(plan) == list(held), f"{len(held)} layers, {held[0]} visual tokens in the first, {held[-1]} in the last"


def _none_left(steps: Steps) -> tuple[bool, str]:
    held = _case(steps, DEFAULT_PLAN)["visual_tokens"]
    return held[-1] == 0, f"{held[-1]} of {held[0]} visual tokens in the last layer"


def _smaller(steps: Steps) -> tuple[bool, str]:
    with_, without = (_case(steps, plan)["kv_mib"] for plan in (DEFAULT_PLAN, "none"))
    return with_ < without, f"{with_:.3g} MiB of {without:.3g} MiB"


def _cheap(steps: Steps) -> tuple[bool, str]:
    parts = _case(steps, DEFAULT_PLAN)["kernels"].values()
    share = sum(part["merge_ms"] + part["prune_ms"] for part in parts) / sum(part["total_ms"] for part in parts)
    return share < 1, f"merges and prunes take {share:.1%} of vision and prefill"


def _gates(step: str) -> Callable[[Steps], tuple[bool, str]]:
    def read(steps: Steps) -> tuple[bool, str]:
        result = steps[step]["result"]
        gates = result["gates"]
        good = sum(bool(gate["passed"]) for gate in gates)
        return result["passed"] and good == len(gates), f"{good} of {len(gates)} gates passed"

    return read


def _referenced(steps: Steps) -> tuple[bool, str]:
    mode = steps["export"]["result"]["weights_mode"]
    return mode == "reference", f"weights: {mode}"


def _built(steps: Steps) -> tuple[bool, str]:
    built = steps[f"build-{DEFAULT_PLAN}"]["result"]
    size = sum(built[part]["bytes"] for part in ("vision", "decoder"))
    weights = sum(built[part]["weight_bytes"] for part in ("vision", "decoder"))
    library = f"{built['backend']} {built['version']}"
    return size > 0, f"{built['target']} with {library}: {size / _MIB:.1f} MiB for {weights / _MIB:.1f} MiB of weights"


def _engine_case(steps: Steps, plan: str, graphs: bool) -> Any:
    cases = steps["engines"]["result"]["cases"]
    return next(case["runs"] for case in cases if (case["plan"], case["cuda_graphs"]) == (plan, graphs))


def _engines_sooner(steps: Steps) -> tuple[bool, str]:
    pairs = zip(_engine_case(steps, DEFAULT_PLAN, True), _engine_case(steps, "none", True), strict=True)
    ratio = statistics.median(without["ttft_ms"] / with_["ttft_ms"] for with_, without in pairs)
    return ratio > 1, f"first token {ratio:.2f}x sooner"


def _graphs(steps: Steps) -> tuple[bool, str]:
    steps_ms = [
        statistics.median(
            run["decode_ms"] / max(1, run["decode_tokens"]) for run in _engine_case(steps, DEFAULT_PLAN, graphs)
        )
        for graphs in (True, False)
    ]
    return steps_ms[0] <= steps_ms[1], f"{steps_ms[0]:.2f} ms a token replayed, {steps_ms[1]:.2f} ms launched"


def _memory(steps: Steps) -> tuple[bool, str]:
    plans = steps["engines"]["result"]["memory"]
    listed = ", ".join(f"{m['plan']}: {m['taken_mib']:.0f} of {m['predicted_mib']:.0f} MiB predicted" for m in plans)
    return all(m["taken_mib"] <= _MEMORY * m["predicted_mib"] for m in plans), listed


def _checks(steps: Steps) -> tuple[bool, str]:
    code = steps["gpu-check"]["result"]["exit_code"]
    return code == 0, f"exit code {code}"


_JUDGES: dict[str, Callable[[Steps], tuple[bool, str]]] = {
    "reference": _referenced,
    "fixed": _planned,
    "none-left": _none_left,
    "sooner": _sooner,
    "smaller": _smaller,
    "cheap": _cheap,
    "built": _built,
    "engines-sooner": _engines_sooner,
    "graphs": _graphs,
    "memory": _memory,
    "kernels": _checks,
}

_TABLE = Path(__file__).with_suffix(".json").read_text(encoding="utf-8").replace("{plan}", DEFAULT_PLAN)
#: Rows of ``claims.json``; a claim about a parity holds where every gate of its step passed.
CLAIMS = tuple(Claim(**row, judge=_JUDGES.get(row["name"]) or _gates(row["step"])) for row in json.loads(_TABLE))
