"""Plans with names that a user can type: each a recipe that scales with a model's depth and a picture's size.

Shares of the depth and of the tokens become layers and budgets in ``planning.solve``. What a recipe kept and saved
where it was measured stands in docs/plans.md. The recipes are ours but for ``luvc`` and ``luvc-literal``, which read
the abstract of arXiv 2512.09010; where it is silent they are reconstructions.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from luvc_export.core.plan import Method
from luvc_export.core.plan.merging import EARLIEST
from luvc_export.core.plan.request import EncoderPruneRequest, EncoderRequest, LlmRequest, PlanRequest

#: What every recipe kept and saved where it was measured, by ``python -m glyph_deep.studies.named`` in ``examples``;
#: times to the first token by ``benchmarks/run.py --figures``.
FIGURES = Path(__file__).with_name("named_plans.json")

#: What a user gets who names no plan.
DEFAULT_PLAN = "safe"

#: Every token in the first eighth of the depth: prunes before layer 0 rank what no LLM layer has read yet, and lost
#: more pages at the same FLOPs when the recipes were searched (search splits of examples/glyph_deep).
_FIRST = (Fraction(0), 1.0)
_AFTER = Fraction(1, 8)


@dataclass(frozen=True)
class NamedPlan:
    """One recipe.

    Args:
        says: What it is for, one line for people.
        source: Where its settings come from.
        request: What it asks of ``planning.solve``.
    """

    says: str
    source: str
    request: PlanRequest

    @property
    def key(self) -> str:
        """What its figures were measured of: the first 16 hexadecimal digits of the recipe's sha256."""
        return hashlib.sha256(json.dumps(asdict(self.request), sort_keys=True, default=str).encode()).hexdigest()[:16]

    def under(self, request: PlanRequest) -> PlanRequest:
        """This recipe with what ``request`` says otherwise, part by part."""
        llm = replace(self.request.llm, **_otherwise(request.llm))
        return replace(request, llm=llm, encoder=replace(self.request.encoder, **_otherwise(request.encoder)))


def _otherwise(part: LlmRequest | EncoderRequest) -> dict[str, Any]:
    """Fields of ``part`` that are not their defaults."""
    return {one.name: value for one in fields(part) if (value := getattr(part, one.name)) != one.default}


_RESIDUAL = Method("residual", (("rho", 0.5),))
_SCOPE = Method("scope", (("rho", 0.5),))
#: The last half of the depth: free on glyph_shallow, whose LLM does the seeing in its first half, where freezing 2/8 to
#: 7/8 lost half of the answers (docs/results/glyph-shallow.md).
_FROZEN = (Fraction(1, 2), Fraction(1))
_LEAN = LlmRequest(method=_RESIDUAL, last_layer="kv_only", stages=(_FIRST, (_AFTER, 0.415)), frozen=_FROZEN)

NAMED: dict[str, NamedPlan] = {
    "safe": NamedPlan(
        "merges nothing; every token in the first eighth of the LLM, 41.5 % after it, none at the last layer",
        "searched on the search splits of examples/glyph_deep for 2x fewer prefill FLOPs",
        PlanRequest(LlmRequest(method=_RESIDUAL, stages=(_FIRST, (_AFTER, 0.415)))),
    ),
    "fast": NamedPlan(
        "as safe, with 34 % chosen by coverage",
        "the quickest of its kind that kept 99 % on every search split of examples/glyph_deep",
        PlanRequest(LlmRequest(method=_SCOPE, stages=(_FIRST, (_AFTER, 0.34)))),
    ),
    "lean": NamedPlan(
        "as safe, with the last half of the LLM frozen and a quarter of the units out of the later encoder",
        "safe, frozen where glyph_shallow allows (docs/results/glyph-shallow.md); its encoder loses answers on pages",
        PlanRequest(
            _LEAN, EncoderRequest(prune=EncoderPruneRequest(0.75, depth=Fraction(EARLIEST).limit_denominator()))
        ),
    ),
    "leaner": NamedPlan(
        "as lean, with half of the units out after a third of the encoder: for photographs, not for pages",
        "as lean; its encoder loses half of the answers on pages",
        PlanRequest(_LEAN, EncoderRequest(prune=EncoderPruneRequest(0.5))),
    ),
    "luvc": NamedPlan(
        "merges a quarter of the units along rows and columns, prunes by thirds, none left at the last layer",
        "arXiv 2512.09010, with the score that kept most on the search splits; merging loses answers on pages",
        PlanRequest(LlmRequest("thirds", _SCOPE)),
    ),
    "luvc-literal": NamedPlan(
        "as luvc, with the low-pass filter as the abstract reads: what it passes stays",
        "arXiv 2512.09010 word by word; numbers it does not give are reconstructions",
        PlanRequest(LlmRequest("thirds", Method("low", (("rho", 0.25),)), axis="token", spectrum="1d")),
    ),
}
