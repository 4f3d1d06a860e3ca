"""luvc-export itself, on OpenVINO or ONNX Runtime. Its time to first token includes opening and fitting the picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import common

from luvc_export.core.plan.merging import earliest
from luvc_export.core.planning import EncoderPruneRequest

#: What each plan asks of ``make_plan``. ``early`` merges to a half after the encoder's first full-attention block;
#: in ``halved`` half of the units leave after a third of its depth, and come back; in ``leaner`` too, and in ``lean`` a
#: quarter after a fifth, both before an LLM of ``LEAN``.
PLANS: dict[str, dict[str, Any]] = {
    "none": {"schedule": "none"},
    "even": {"schedule": "even"},
    "thirds": {"schedule": "thirds"},
    "halved": {"schedule": "even", "encoder_prune": EncoderPruneRequest(0.5)},
    "early": {"schedule": "thirds", "merge_keep": 0.5, "merge_at": (7,)},
}
#: As ``plan --data --speedup 3`` found it on textured pictures (docs/results/glyph-deep-past.md): the share of tokens
#: after layer 0, where frozen layers begin and end along the depth, and how tokens are ranked.
LEAN_KEEP, LEAN_FROZEN = 65 / 108, (2 / 8, 7 / 8)
LEAN: dict[str, Any] = {"score": "residual", "rho": 0.5, "last_layer": "kv_only"}
#: Pixels a side of a unit.
UNIT = 28


def prepare(options: dict[str, Any]) -> None:
    """Export the plan once."""
    import luvc_export

    if not folder(options).is_dir():
        size = (common.SIDE, common.SIDE)
        name = options["plan"]
        asked = PLANS[name] if name in PLANS else lean(Path(options["checkpoint"]), name == "leaner")
        plan = luvc_export.make_plan(options["checkpoint"], image_size=size, **asked)
        luvc_export.export_bundle(
            options["checkpoint"],
            folder(options),
            {options["plan"]: plan},
            image_size=size,
            text_capacity=512,
            weights="reference",
        )


def lean(checkpoint: Path, leaner: bool) -> dict[str, Any]:
    """What ``lean`` and ``leaner`` ask for a checkpoint of this depth."""
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    layers, blocks = config["text_config"]["num_hidden_layers"], config["vision_config"]["depth"]
    tokens = (common.SIDE // UNIT) ** 2
    begin, end = (round(share * layers) for share in LEAN_FROZEN)
    budgets = [tokens, *[round(LEAN_KEEP * tokens)] * (layers - 1)]
    encoder = EncoderPruneRequest(0.5) if leaner else EncoderPruneRequest(0.75, earliest(blocks))
    return LEAN | {"schedule": budgets, "kv_only": tuple(range(begin, end)), "encoder_prune": encoder}


def folder(options: dict[str, Any]) -> Path:
    """The plan's bundle."""
    return Path(options["out"]) / f"bundle-{options['plan']}"


def times(options: dict[str, Any]) -> dict[str, Any]:
    """Time one plan."""
    import luvc_export
    from luvc_export.runtime.bench.case import BenchCase
    from luvc_export.runtime.bench.loaded_case import LoadedCase

    backend, arithmetic = options.get("backend", "openvino"), options.get("arithmetic", "auto")
    case = BenchCase(
        folder(options),
        options["plan"],
        text=common.TEXT,
        new_tokens=common.NEW,
        backend=backend,
        arithmetic=arithmetic,
    )
    runner = LoadedCase(case)
    runner.run(case)
    samples = [runner.run(case) for _ in range(common.RUNS)]
    keep = runner.session.plan.keep
    ttft, speed = [s.ttft_ms / 1000 for s in samples], [s.tokens_per_s for s in samples]
    prefill = [s.prefill_ms / 1000 for s in samples]
    facts = runner.facts(case)
    version = f"{luvc_export.__version__}, {facts.backend} {facts.arithmetic}"
    made = common.answer(version, sum(keep) / len(keep), ttft, speed, prefill)
    return made | {
        "load_s": facts.load_ms / 1000,
        "first_answer_s": facts.first_ms / 1000,
        "prefill_flops": facts.prefill_flops,
        "decode_bytes": facts.decode_bytes,
    }


if __name__ == "__main__":
    common.main(prepare, times)
