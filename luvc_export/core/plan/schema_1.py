"""Plans of schema 1, which had 28 fields and no parts: what versions before this one wrote of a plan, as parts.

This is the one place that knows scores by name outside their own folder: old plans do not say what a score reads.
"""

from __future__ import annotations

from typing import Any

from luvc_export.errors import PlanError

#: Fields of a part by their names in schema 1.
ENCODER = {"encoder_prune": "prune"} | {
    name: name for name in ("grid", "merges", "bucket", "merge_mode", "positions", "windows", "size_bias", "padding")
}
LLM = {name: name for name in ("keep", "last_layer", "kv_only", "reducer", "axis", "spectrum", "aggregate")}
SHARING = {"joint_images": "images", "joint_tiles": "tiles", "quota": "quota"}
_PLAN = ("schedule", "topk_limit", "schema_version")
#: Settings of scores, and what they were where a plan says nothing. Plans of before rounds grew had equal ones.
SETTINGS: dict[str, Any] = {"rho": 0.25, "seed": 0, "steps": 0, "rounds": "equal", "scorer": ""}

#: What each score read, and whether it kept the same tokens whatever was asked.
SCORES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("dart", "fastv", "keynorm", "norm", "pyramiddrop", "stride", "v2drop"), ()),
    **dict.fromkeys(("low", "ratio", "residual"), ("rho",)),
    **{"learned": ("scorer",), "maxmin": ("rounds", "steps"), "random": ("seed",), "scope": ("rho", "rounds", "steps")},
}
_READ_TEXT = ("fastv", "pyramiddrop")
_SPECTRAL = ("low", "ratio", "residual", "scope")


def in_parts(data: dict[str, Any], where: str) -> dict[str, Any]:
    """The JSON of a plan of schema 1 as that of a plan in parts.

    Args:
        data: As parsed.
        where: Names it in errors.

    Raises:
        PlanError: A field is unknown or missing.
    """
    known = {*ENCODER, *LLM, *SHARING, *SETTINGS, *_PLAN, "score"}
    unknown, missing = sorted(set(data) - known), sorted({"grid", "keep"} - set(data))
    if unknown or missing:
        raise PlanError("the plan's fields are wrong", where=where, got=f"unknown {unknown}, missing {missing}")
    parts: dict[str, Any] = {name: data[name] for name in ("schedule", "topk_limit") if name in data}
    for part, names in (("encoder", ENCODER), ("llm", LLM), ("sharing", SHARING)):
        parts[part] = {now: data[name] for name, now in names.items() if name in data}
    parts["llm"]["method"] = method_of(data, where)
    return parts


def method_of(data: dict[str, Any], where: str) -> dict[str, Any]:
    """JSON of the method that a plan of schema 1 says."""
    score = data.get("score", "residual")
    if not isinstance(score, str):
        raise PlanError("a score's name is a text", where=f"{where}.score", got=repr(score)[:40])
    settings = {name: data.get(name, SETTINGS[name]) for name in SCORES.get(score, ())}
    return {
        "name": score,
        "settings": settings,
        "reads_text": score not in SCORES or score in _READ_TEXT,
        "reads_spectrum": score in _SPECTRAL,
    }
