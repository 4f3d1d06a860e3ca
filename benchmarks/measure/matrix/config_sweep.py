"""Random legal configs of every family against transformers: equal, or refused with a reason; all else is a fault.

``python benchmarks/measure/matrix/config_sweep.py [--count 300] [--family NAME ...] [--minutes N]`` draws configs
around the family's tiny one (head sizes, depths, activations, biases, RoPE, layer kinds, what each tower can be told),
keeps those that transformers itself builds and runs, and holds the torch modules of plan ``none`` to its logits on a
prompt with a picture. A family is a line of docs/results/config_sweep.json, which a second run goes on from; the page
beside it counts. Config number N of a family is the same on every machine: ``--only FAMILY:N`` runs one alone, and
raises.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "tests/export/families"), str(ROOT / "tests")]

import family_harness as harness  # noqa: E402
import torch  # noqa: E402
from family_checkpoints import find  # noqa: E402

from luvc_export.errors import LuvcError  # noqa: E402
from luvc_export.export import families  # noqa: E402

PAGE = ROOT / "docs/results/config_sweep.md"
FIGURES = PAGE.with_suffix(".json")
DRAWN = families.built_in()
#: Relative L2 of logits, fp32, sums in another order.
LIMIT = 1e-4
_HEAD = f"""# Random configs

Written by `python benchmarks/measure/matrix/config_sweep.py`: random legal configs around each family's tiny one,
those that transformers builds and runs; logits of the torch modules, plan `none`, against its logits on a prompt with a
picture (relative L2, limit {LIMIT:.0e}). What is refused says why. "differ" and "crashed" are faults.

| family | legal configs run | equal | worst | refused | differ | crashed | reasons |
|---|---|---|---|---|---|---|---|
"""
_ROPES: tuple[dict[str, Any], ...] = (
    {"rope_type": "default"},
    {"rope_type": "default"},
    {"rope_type": "linear", "factor": 2.0},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
    {"rope_type": "dynamic", "factor": 2.0},
    {
        "rope_type": "llama3",
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
)


def drawn(name: str, number: int) -> tuple[Any, dict[str, Any]]:
    """Config ``number`` of a family or its fields, perhaps of none that transformers builds, and what of it differs."""
    draw = random.Random(f"{name} {number}")
    family = families.find(name, "sweep")
    config = family.tiny_config()
    if own := find(name).drawn:
        return own(draw, config)
    text, vision = config.get_text_config(), config.vision_config
    changed: dict[str, Any] = {}

    def put(owner: Any, side: str, field: str, value: Any, chance: float = 0.5) -> None:
        if hasattr(owner, field) and draw.random() < chance:
            setattr(owner, field, value)
            changed[f"{side}.{field}"] = value

    kv = draw.choice([1, 2, 3])
    put(text, "text", "num_key_value_heads", kv, 1)
    put(text, "text", "num_attention_heads", kv * draw.choice([1, 2, 4]), 1)
    put(text, "text", "head_dim", draw.choice([8, 16, 24, 32]), 1)
    put(text, "text", "hidden_size", text.num_attention_heads * text.head_dim if hasattr(text, "head_dim") else 64, 0.4)
    put(text, "text", "intermediate_size", draw.choice([40, 96, 130]))
    put(text, "text", "num_hidden_layers", draw.randint(1, 4))
    put(text, "text", "rms_norm_eps", draw.choice([1e-5, 1e-6]))
    put(text, "text", "hidden_act", draw.choice(["silu", "gelu", "gelu_pytorch_tanh", "relu"]), 0.2)
    put(text, "text", "hidden_activation", draw.choice(["silu", "gelu", "gelu_pytorch_tanh"]), 0.2)
    put(text, "text", "attention_bias", draw.random() < 0.5)
    put(text, "text", "mlp_bias", draw.random() < 0.5, 0.3)
    put(text, "text", "query_pre_attn_scalar", draw.choice([16, 24, 64]))
    put(text, "text", "sliding_window", draw.choice([None, 128, 512]), 0.3)
    kinds = draw.choice([["full_attention"], ["sliding_attention"], ["sliding_attention", "full_attention"]])
    if getattr(text, "layer_types", None) is not None:
        mixed = draw.random() < 0.4
        kinds = kinds if mixed else text.layer_types
        text.layer_types = [kinds[layer % len(kinds)] for layer in range(text.num_hidden_layers)]
        changed["text.layer_types"] = text.layer_types
    _turn(draw, text, changed)
    put(vision, "vision", "num_attention_heads", draw.choice([1, 2, 4]))
    put(vision, "vision", "num_heads", draw.choice([1, 2, 4]))
    put(vision, "vision", "intermediate_size", draw.choice([40, 64]))
    put(vision, "vision", "hidden_act", draw.choice(["gelu", "quick_gelu", "gelu_pytorch_tanh", "silu"]), 0.4)
    put(vision, "vision", "depth", draw.randint(2, 4), 0.4)
    put(vision, "vision", "num_hidden_layers", draw.randint(2, 4), 0.4)
    put(vision, "vision", "layer_norm_eps", draw.choice([1e-5, 1e-6]))
    put(vision, "vision", "fullatt_block_indexes", draw.choice([[0], [1], [0, 1], []]), 0.4)
    put(vision, "vision", "window_size", draw.choice([56, 112]), 0.3)
    put(vision, "vision", "deepstack_visual_indexes", draw.choice([[0], [0, 1], []]), 0.4)
    put(vision, "vision", "use_qk_norm", draw.random() < 0.5)
    put(vision, "vision", "attention_bias", draw.random() < 0.5)
    put(vision, "vision", "norm_type", draw.choice(["layer_norm", "rms_norm"]))
    put(vision, "vision", "use_absolute_position_embeddings", draw.random() < 0.8, 0.3)
    put(config, "", "vision_feature_layer", draw.choice([-1, -2, [-1, -2]]), 0.4)
    put(config, "", "vision_feature_select_strategy", draw.choice(["default", "full"]), 0.3)
    put(config, "", "projector_hidden_act", draw.choice(["gelu", "relu"]), 0.3)
    put(config, "", "multimodal_projector_bias", draw.random() < 0.5, 0.3)
    tied = draw.random() < 0.3
    config.tie_word_embeddings = text.tie_word_embeddings = tied
    changed["tie_word_embeddings"] = tied
    put(text, "text", "conv_bias", draw.random() < 0.5)
    put(text, "text", "conv_L_cache", draw.choice([2, 3, 4]))
    put(config, "", "projector_use_layernorm", draw.random() < 0.5)
    return config, changed


def _turn(draw: random.Random, text: Any, changed: dict[str, Any]) -> None:
    """Other RoPE parameters, of each kind of layer where it has several."""
    stated = getattr(text, "rope_parameters", None)
    if not isinstance(stated, dict) or draw.random() < 0.4:
        return
    own = {kind: one for kind, one in stated.items() if isinstance(one, dict)}
    turned: dict[str, Any] = {}
    for kind, one in (own or {"": stated}).items():
        base = {"rope_theta": one.get("rope_theta", 10000.0)}
        if "mrope_section" in one:
            half = (getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads) // 2
            others = len(one["mrope_section"]) - 1
            part = half // (others + 1)
            fitting = [half - others * part, *[part] * others]
            base["mrope_section"] = draw.choice([one["mrope_section"], fitting, fitting, [1] * (others + 1)])
            base |= {"alpha": one["alpha"]} if "alpha" in one else {}
        if "mrope_interleaved" in one:
            base["mrope_interleaved"] = one["mrope_interleaved"]
        turned[kind] = {**draw.choice(_ROPES), **base}
    text.rope_parameters = turned if own else turned[""]
    changed["text.rope_parameters"] = text.rope_parameters


def outcome(name: str, number: int, raising: bool = False) -> dict[str, Any] | None:
    """A record of one config; None where transformers has no such model."""
    family = families.find(name, "sweep")
    config, changed = drawn(name, number)
    try:
        whole = config if isinstance(config, dict) else config.to_dict()
        config = type(family.tiny_config())(**whole)
        tiny = harness.build(family, config, seed=number)
        ids, images = tiny.prompt(1), tiny.images(1)
        wanted = harness.reference_logits(tiny, harness.reference(tiny, ids, images))
        if not torch.isfinite(wanted).all():
            return None
    except LuvcError as error:
        why = error.what.splitlines()[0]
        return {"family": name, "number": number, "outcome": "refused", "why": why, "changed": changed}
    except Exception:  # whatever transformers raises: no legal config
        return None
    try:
        decoder = family.decoder(tiny.model, tiny.plan)
        embeds, positions, _ = harness.encode_images(tiny, tiny.plan, images)
        run = harness.lay_out(tiny, tiny.plan, ids, embeds, positions)
        logits = harness.logits(tiny, decoder, run)
        apart = float((logits - wanted).norm() / wanted.norm()) if logits.shape == wanted.shape else float("inf")
        kind, why = ("equal" if apart <= LIMIT else "differs"), f"{apart:.1e}"
    except LuvcError as error:
        kind, why = "refused", error.what.splitlines()[0]
    except Exception as error:
        if raising:
            raise
        kind, why = "crashed", f"{type(error).__name__}: {error}"[:200]
    return {"family": name, "number": number, "outcome": kind, "why": why, "changed": changed}


def page(records: dict[str, dict[str, Any]]) -> str:
    """The page beside the figures."""
    lines = []
    for name, one in records.items():
        whys = sorted(one["refused"].items(), key=lambda item: -len(item[1]))
        reasons = "; ".join(f"{why} ({len(numbers)})" for why, numbers in whys)
        refused = sum(len(numbers) for _, numbers in whys)
        counts = [
            one["equal"] + refused + len(one["differs"]) + len(one["crashed"]),
            one["equal"],
            f"{one['worst']:.0e}",
        ]
        counts += [refused, len(one["differs"]), len(one["crashed"]), reasons]
        lines.append(f"| `{name}` | " + " | ".join(map(str, counts)) + " |")
    return _HEAD + "\n".join(lines) + "\n"


def add(one: dict[str, Any], record: dict[str, Any]) -> None:
    """Count a record in its family's; the numbers of what is not equal are kept."""
    kind, number, why = record["outcome"], record["number"], record["why"]
    if kind == "equal":
        one["equal"], one["worst"] = one["equal"] + 1, max(one["worst"], float(why))
    elif kind == "refused":
        one["refused"].setdefault(why, []).append(number)
    else:
        one[kind][str(number)] = why


def legal(one: dict[str, Any]) -> int:
    """How many of a family's configs were legal."""
    return int(one["equal"] + sum(map(len, one["refused"].values())) + len(one["differs"]) + len(one["crashed"]))


def main() -> int:
    """Draw until every family has ``--count`` legal configs, or the time is over."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--family", action="append", choices=DRAWN)
    parser.add_argument("--minutes", type=float, default=600.0)
    parser.add_argument("--only", help="FAMILY:NUMBER")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.only:
        name, _, number = options.only.partition(":")
        print(json.dumps(outcome(name, int(number), raising=True), indent=1))
        return 0
    records = json.loads(FIGURES.read_text(encoding="utf-8")) if FIGURES.is_file() else {}
    ends = time.monotonic() + 60 * options.minutes
    left = list(options.family or DRAWN)
    for name in left:
        records.setdefault(name, {"next": 0, "equal": 0, "worst": 0.0, "refused": {}, "differs": {}, "crashed": {}})
    while left and time.monotonic() < ends:
        for name in list(left):
            one = records[name]
            if legal(one) >= options.count:
                left.remove(name)
                continue
            record = outcome(name, one["next"])
            one["next"] += 1
            if record is not None:
                add(one, record)
    records = dict(sorted(records.items()))
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(one)}" for name, one in records.items())
    FIGURES.write_text("{\n" + lines + "\n}\n", encoding="utf-8")
    PAGE.write_text(page(records), encoding="utf-8")
    faults = sum(len(one["differs"]) + len(one["crashed"]) for one in records.values())
    print(f"{sum(map(legal, records.values()))} legal configs, {faults} faults")
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
