"""Options of a plan that is made for a time to the first token on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from luvc_export.core.options import option
from luvc_export.core.plan import Plan
from luvc_export.core.shapes import DecoderShape, EncoderShape
from luvc_export.errors import UsageError

if TYPE_CHECKING:
    from luvc_export.runtime.speed_probe.first_token import Speed


@dataclass(frozen=True)
class TimeOptions:
    """A goal in time, and the engine whose time it is."""

    time: str | None = option(
        None, "Solve budgets for this time to the first token on this CPU, by estimate.", metavar="500ms"
    )
    backend: str | None = option(
        None,
        "With --time: openvino or cpu; default: the first that is installed.",
        choices=("openvino", "cpu"),
    )

    def check(self, others: Sequence[str]) -> None:
        """Refuse what contradicts a time, before the work: ``others``, options of the command line.

        Raises:
            UsageError: Another goal or plan is asked for, or a back-end without a time.
        """
        if self.time is None and self.backend is not None:
            raise UsageError("a back-end is timed for a goal in time", where="--backend", fix="give --time too")
        if self.time is not None and others:
            what = "--time solves the budgets itself, for the whole encoder"
            raise UsageError(what, where=", ".join(others), fix="leave them out")

    def speedup(
        self, whole: Plan, llm: DecoderShape, encoder: EncoderShape, text: int, size: str
    ) -> tuple[float, Speed]:
        """Factor on LLM prefill FLOPs that meets the goal, 1 or less where nothing need go, and what it rests on.

        Args:
            whole: The uncompressed plan.
            llm: Sizes of the LLM.
            encoder: Sizes of the encoder.
            text: Text tokens.
            size: The image size, for errors.

        Raises:
            UsageError: ``--time`` cannot be read.
            PlanError: The encoder alone takes as long.
            MachineError: No engine to be timed is installed.
        """
        from luvc_export.runtime.speed_probe.first_token import predicted, probe, seconds, speedup_for

        goal = seconds(str(self.time))
        speed = probe(whole, llm, encoder, self.backend)
        return speedup_for(goal, predicted(whole, llm, encoder, text, speed), size), speed


def first_token(plan: Plan, llm: DecoderShape, encoder: EncoderShape, text: int, speed: Speed) -> dict[str, Any]:
    """What ``plan`` should take, and what that rests on: see ``speed_probe.first_token.to_json``."""
    from luvc_export.runtime.speed_probe.first_token import predicted, to_json

    return to_json(predicted(plan, llm, encoder, text, speed), speed)


def time_line(facts: dict[str, Any]) -> str:
    """One line for people on ``first_token.to_json``."""
    rates = f"{facts['encoder_flops_per_s'] / 1e9:.0f} and {facts['llm_flops_per_s'] / 1e9:.0f} GFLOP/s"
    return (
        f"first token here: about {facts['first_token_s'] * 1000:.0f} ms with {facts['engine']} in"
        f" {facts['arithmetic']} (encoder {facts['encoder_s'] * 1000:.0f}, LLM {facts['llm_s'] * 1000:.0f};"
        f" products timed just now at {rates})"
    )
