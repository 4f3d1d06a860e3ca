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

from luvc_export.core.plan import Method, Sharing, stripes
from luvc_export.core.plan.request import EncoderPruneRequest, EncoderRequest, LlmRequest, PlanRequest

#: What every recipe kept and saved where it was measured, by ``python -m glyph_deep.studies.plans.named`` and, of
#: films, ``python -m glyph_clips.named`` in ``examples``; times to the first token by ``benchmarks/run.py --figures``.
FIGURES = Path(__file__).with_name("named_plans.json")

#: What a user gets who names no plan.
DEFAULT_PLAN = "safe"

#: What plans under a name are that were made before it meant another recipe.
FORMER = {"safe": "staged"}

#: The recipe that budgets solved for a goal (``--speedup``, ``--kv-mib``) take all else from.
SOLVED_AS = "staged"

_RECIPES: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("recipes.json").read_text(encoding="utf-8"))

#: Part, field and default of what recipes measured before these fields had none of.
_LATER = (
    ("encoder", "time", None),
    ("encoder", "restore", "all"),
    ("llm", "apart", False),
    ("llm", "stripes", None),
    ("llm", "turns", None),
)


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
        for part, field, default in _LATER:
            if asked[part][field] == default:
                del asked[part][field]
        return hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()[:16]

    def under(self, request: PlanRequest) -> PlanRequest:
        """This recipe with what ``request`` says otherwise, part by part; its quota is for clips alone."""
        llm = replace(self.request.llm, **_otherwise(request.llm))
        encoder, sharing = replace(self.request.encoder, **_otherwise(request.encoder)), request.sharing
        if sharing.kind == "clip" and sharing.quota == "none":
            sharing = replace(sharing, quota=self.request.sharing.quota)
        return replace(request, llm=llm, encoder=encoder, sharing=sharing)


@dataclass(frozen=True)
class QuantisedPlan:
    """A name that also says a precision, which ranges of pictures are needed for: ``export`` alone makes it.

    Args:
        says: What it is for, one line for people.
        source: Why it has a name.
        recipe: A name of ``PICTURES``.
        precision: Of the encoder, a name of ``core.precision``; the LLM stays in the bundle's own.
    """

    says: str
    source: str
    recipe: str
    precision: str


def _otherwise(part: LlmRequest | EncoderRequest) -> dict[str, Any]:
    """Fields of ``part`` that are not their defaults."""
    return {one.name: value for one in fields(part) if (value := getattr(part, one.name)) != one.default}


def _recipes(group: str) -> dict[str, NamedPlan]:
    """Recipes of ``recipes.json``: what a request says otherwise than its defaults; shares may be fractions as text."""
    return {name: NamedPlan(row["says"], row["source"], _request(row)) for name, row in _RECIPES[group].items()}


def _request(row: dict[str, Any]) -> PlanRequest:
    method, llm, encoder = row["llm"]["method"], dict(row["llm"]), dict(row.get("encoder", {}))
    llm["method"] = Method(method["name"], tuple(sorted(method.get("settings", {}).items())))
    llm["stages"] = tuple((Fraction(depth), float(Fraction(share))) for depth, share in llm.get("stages", ()))
    llm["stripes"] = stripes.read(llm.get("stripes"))
    if "merge_keep" in encoder:
        encoder["merge_keep"] = float(Fraction(encoder["merge_keep"]))
    if prune := encoder.get("prune"):
        shares = {"depth": Fraction(prune["depth"])} if "depth" in prune else {}
        encoder["prune"] = EncoderPruneRequest(**{**prune, **shares})
    return PlanRequest(LlmRequest(**llm), EncoderRequest(**encoder), Sharing(**row.get("sharing", {})))


#: Recipes for pictures. Every token is in the front of the depth: prunes before layer 0 rank what no LLM layer has read
#: yet, and lost more pages at the same FLOPs when the recipes were searched (search splits of examples/glyph_deep).
#: Every layer of the first two fifths works on visual tokens in ``safe`` and its kin: glyph_shallow reads there, and
#: loses half of its answers where those layers stand still (docs/results/stripes.md). ``lean`` prunes the encoder at
#: ``merging.EARLIEST``.
PICTURES: dict[str, NamedPlan] = _recipes("pictures")

#: Recipes for clips, measured on films of moving digits (examples/glyph_clips). Shares that a source leaves to the user
#: are a quarter, at which the others are held against each other.
CLIPS: dict[str, NamedPlan] = _recipes("clips")

QUANTISED: dict[str, QuantisedPlan] = {name: QuantisedPlan(**row) for name, row in _RECIPES["quantised"].items()}

#: Names that users have and no table lists: stripes of their own, and what another plan here is sooner and safer than.
UNLISTED: dict[str, NamedPlan] = _recipes("unlisted")

NAMED: dict[str, NamedPlan] = {**PICTURES, **CLIPS, **UNLISTED}
