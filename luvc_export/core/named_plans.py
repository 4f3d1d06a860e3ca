"""Plans with names that a user can type: each a recipe that scales with a model's depth and a picture's size.

Shares of the depth and of the tokens become layers and budgets in ``planning.solve``. What a recipe kept and saved
where it was measured stands in docs/plans.md. ``luvc`` and ``luvc-literal`` read the abstract of arXiv 2512.09010,
those of ``CLIPS`` that have a system's name read its paper or code; where these are silent they are reconstructions.
The others are ours.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from luvc_export.core.plan import Method, Sharing
from luvc_export.core.plan.merging import EARLIEST
from luvc_export.core.plan.request import EncoderPruneRequest, EncoderRequest, LlmRequest, PlanRequest

#: What every recipe kept and saved where it was measured, by ``python -m glyph_deep.studies.plans.named`` and, of
#: films, ``python -m glyph_clips.named`` in ``examples``; times to the first token by ``benchmarks/run.py --figures``.
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
        asked = asdict(self.request)
        for part, field, default in (("encoder", "time", None), ("llm", "apart", False)):
            if asked[part][field] is default:  # recipes measured before these fields had none
                del asked[part][field]
        return hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()[:16]

    def under(self, request: PlanRequest) -> PlanRequest:
        """This recipe with what ``request`` says otherwise, part by part; its quota is for clips alone."""
        llm = replace(self.request.llm, **_otherwise(request.llm))
        encoder, sharing = replace(self.request.encoder, **_otherwise(request.encoder)), request.sharing
        if sharing.kind == "clip" and sharing.quota == "none":
            sharing = replace(sharing, quota=self.request.sharing.quota)
        return replace(request, llm=llm, encoder=encoder, sharing=sharing)


def _otherwise(part: LlmRequest | EncoderRequest) -> dict[str, Any]:
    """Fields of ``part`` that are not their defaults."""
    return {one.name: value for one in fields(part) if (value := getattr(part, one.name)) != one.default}


_RESIDUAL = Method("residual", (("rho", 0.5),))
_SCOPE = Method("scope", (("rho", 0.5),))
#: The last half of the depth: free on glyph_shallow, whose LLM does the seeing in its first half, where freezing 2/8 to
#: 7/8 lost half of the answers (docs/results/glyph-shallow.md).
_FROZEN = (Fraction(1, 2), Fraction(1))
_LEAN = LlmRequest(method=_RESIDUAL, last_layer="kv_only", stages=(_FIRST, (_AFTER, 0.415)), frozen=_FROZEN)

PICTURES: dict[str, NamedPlan] = {
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


def _before_the_llm(method: Method, share: float) -> LlmRequest:
    """``share`` of what the encoder gives, chosen before the first layer; the last computes keys and values alone."""
    return LlmRequest(method=method, last_layer="kv_only", stages=((Fraction(0), share),))


#: Recipes for clips, measured on films of moving digits (examples/glyph_clips). Shares that a source leaves to the user
#: are a quarter, at which the others are held against each other.
CLIPS: dict[str, NamedPlan] = {
    "film": NamedPlan(
        "a quarter of a clip's tokens from the second layer on, each least like those taken before it",
        "ours; the score that kept most of the search split of examples/glyph_clips at a quarter",
        PlanRequest(LlmRequest(method=Method("maxmin"), last_layer="kv_only", stages=(_FIRST, (_AFTER, 0.25)))),
    ),
    "evs": NamedPlan(
        "a quarter of a clip's tokens, those least like their place in the frame before",
        "vLLM (Efficient Video Sampling); its rate is the user's to say",
        PlanRequest(_before_the_llm(Method("evs"), 0.25)),
    ),
    "dycoke": NamedPlan(
        "of four frames one whole and of the others what differs from it: 196, 58, 58, 58",
        "arXiv 2411.15024, its temporal merging at k = 0.7; shares of other sizes are a reconstruction",
        PlanRequest(_before_the_llm(Method("dycoke"), 370 / 784), sharing=Sharing(quota="dycoke")),
    ),
    "vidcom2": NamedPlan(
        "a quarter of a clip's tokens, those least like its mean and their frame's, more of unusual frames",
        "arXiv 2505.14454 at 25 %; how the two likenesses go together is a reconstruction",
        PlanRequest(_before_the_llm(Method("vidcom2"), 0.25), sharing=Sharing(quota="vidcom2")),
    ),
    "holitom": NamedPlan(
        "a quarter of a clip's tokens: places that stand still once in four frames, cluster centres of the rest",
        "arXiv 2505.21334; fixed windows of 4 and half of the budget for still places are reconstructions",
        PlanRequest(_before_the_llm(Method("holitom", (("still", 0.5), ("window", 4))), 0.25)),
    ),
    "adsc": NamedPlan(
        "every second token left out after each quarter of the LLM's depth",
        "arXiv 2602.12618, whose model is trained for it; the layers are a reconstruction of its FLOPs",
        PlanRequest(
            LlmRequest(
                method=Method("stride"),
                last_layer="kv_only",
                stages=tuple((Fraction(quarter, 4), 0.5**quarter) for quarter in range(4)),
            )
        ),
    ),
    "parvts": NamedPlan(
        "a quarter of a clip's tokens and the rest see nothing of each other until the rest goes after an eighth",
        "arXiv 2511.18875; which tokens, when the rest goes (by its FLOPs) and one text for both are reconstructions",
        PlanRequest(
            LlmRequest(method=Method("maxmin"), last_layer="kv_only", stages=(_FIRST, (_AFTER, 0.25)), apart=True)
        ),
    ),
    "dymu": NamedPlan(
        "merges to a third of the units, a few after every encoder block, sizes in its attention",
        "arXiv 2504.17040 with fixed counts, along rows and columns and not of all pairs (departures)",
        PlanRequest(
            LlmRequest(method=Method("stride"), last_layer="full", stages=((Fraction(0), 1.0),)),
            EncoderRequest(1 / 3, merge_schedule="every", positions="multi", size_bias=True),
        ),
    ),
}

NAMED: dict[str, NamedPlan] = {**PICTURES, **CLIPS}
