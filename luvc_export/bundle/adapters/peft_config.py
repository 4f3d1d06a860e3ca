"""``adapter_config.json`` of peft: what of it a bundle's slots can compute, and the scale of each module."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luvc_export.core.files.json_file import read_json
from luvc_export.errors import CheckpointError

CONFIG = "adapter_config.json"
MERGE = "merge it into the weights when exporting: luvc-export export MODEL --lora FOLDER"
_LIMIT = 2**20
_FIELDS = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
#: Where it may stand and what it may hold, of fields that change nothing in what a trained adapter computes.
_HARMLESS = frozenset[str](_FIELDS["harmless"])
#: What other fields do, for whoever reads the refusal.
_REASONS: dict[str, str] = _FIELDS["reasons"]
_BEGUN = (True, False, None, "gaussian", "orthogonal", "eva")
_PLAIN = re.compile(r"\^?[A-Za-z0-9_.]+")


@dataclass(frozen=True)
class PeftConfig:
    """Ranks and scales of a plain LoRA adapter.

    Args:
        where: The file.
        base: The model that it says it was trained for.
        rank: Of modules that no pattern names.
        alpha: The same.
        rooted: Scales are divided by the root of the rank (rsLoRA, arXiv 2312.03732).
        ranks: By pattern.
        alphas: By pattern.
    """

    where: str
    base: str | None
    rank: int
    alpha: float
    rooted: bool
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]

    def rank_of(self, module: str) -> int:
        """Rank of the module of that full name."""
        return int(_matching(self.ranks, module, self.rank))

    def scale_of(self, module: str) -> float:
        """What the product of its factors is multiplied by: alpha over the rank, or over its root."""
        rank = self.rank_of(module)
        return float(_matching(self.alphas, module, self.alpha)) / (math.sqrt(rank) if self.rooted else rank)


def _matching(patterns: Mapping[str, Any], module: str, otherwise: Any) -> Any:
    """As peft finds it: the first pattern that is the name, or its end after a dot (``get_pattern_key``)."""
    for pattern, value in patterns.items():
        name = pattern.removeprefix("^")
        if module == name or (name == pattern and module.endswith(f".{name}")):
            return value
    return otherwise


def read_object(folder: Path) -> dict[str, Any]:
    """The JSON object of the adapter in ``folder``.

    Raises:
        CheckpointError: There is none.
    """
    if not (folder / CONFIG).is_file():
        raise CheckpointError(
            "this folder is not a LoRA adapter",
            where=str(folder),
            got=f"no {CONFIG}",
            expected="what peft's save_pretrained writes",
            fix="hf download OWNER/ADAPTER --local-dir FOLDER gets one from the hub",
        )
    config = read_json(folder / CONFIG, _LIMIT, CheckpointError, "the adapter's config")
    if not isinstance(config, dict):
        raise CheckpointError("the adapter's config is not a JSON object", where=str(folder / CONFIG))
    return config


def read_config(folder: Path) -> PeftConfig:
    """The config of a plain LoRA adapter.

    Raises:
        CheckpointError: It is none, or asks for what factors beside a product do not compute, with the reason.
    """
    config, where = read_object(folder), str(folder / CONFIG)
    if config.get("peft_type") != "LORA":
        raise CheckpointError(
            "this adapter is no LoRA",
            where=f"{where}: peft_type",
            got=repr(config.get("peft_type"))[:80],
            expected="LORA",
        )
    for name, value in config.items():
        begun = name == "init_lora_weights" and value not in _BEGUN
        biased = name == "bias" and value not in ("none", None)
        if begun or biased or (name not in _HARMLESS and value):
            raise CheckpointError(
                "this adapter is more than two factors beside a product",
                where=f"{where}: {name}",
                got=repr(value)[:80],
                expected=f"plain LoRA: {_REASONS.get(name, 'nobody here knows what this field does')}",
                fix=MERGE,
            )
    ranks, alphas = (_patterns(config, name, where) for name in ("rank_pattern", "alpha_pattern"))
    rank, alpha = _number(config.get("r"), f"{where}: r"), _number(config.get("lora_alpha"), f"{where}: lora_alpha")
    whole = [rank, *ranks.values()]
    if any(one != int(one) or one < 1 for one in whole):
        raise CheckpointError("a rank is a whole number from 1 on", where=where, got=str(whole[:8]))
    rooted = config.get("use_rslora") or False
    if not isinstance(rooted, bool):
        raise CheckpointError(
            "whether scales are divided by the root of the rank is true or false",
            where=f"{where}: use_rslora",
            got=repr(rooted)[:80],
            expected="true or false",
            fix="save it again with peft's save_pretrained(FOLDER)",
        )
    base = config.get("base_model_name_or_path")
    return PeftConfig(
        where,
        base[:200] if isinstance(base, str) else None,
        int(rank),
        alpha,
        rooted,
        {name: int(one) for name, one in ranks.items()},
        alphas,
    )


def _patterns(config: Mapping[str, Any], name: str, where: str) -> dict[str, float]:
    patterns = config.get(name) or {}
    if not isinstance(patterns, dict):
        raise CheckpointError("patterns are an object", where=f"{where}: {name}", got=type(patterns).__name__)
    for pattern in patterns:
        if not _PLAIN.fullmatch(pattern):
            raise CheckpointError(
                "a pattern of an adapter is a regular expression, which nobody runs for a stranger",
                where=f"{where}: {name}",
                got=repr(pattern)[:80],
                expected="names of modules, or their ends",
                fix=MERGE,
            )
    return {pattern: _number(value, f"{where}: {name}") for pattern, value in patterns.items()}


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 2**20:
        raise CheckpointError("a number of an adapter is none, or beyond its limits", where=where, got=repr(value)[:80])
    return float(value)
