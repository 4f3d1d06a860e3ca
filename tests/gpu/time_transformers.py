"""Time a whole transformers model as it comes against the same with compression inside (``luvc_export.compressed``).

    python tests/gpu/time_transformers.py                               # Qwen2.5-VL 3B and 7B, to $OUT or gpu-check-out
    python tests/gpu/time_transformers.py --device cpu --tiny -o /tmp/x # only shows that this runs

Weights are random, sizes are published ones. Every run has a new picture and a new prompt, and the plans take turns.
``first_token_ms`` is a call of ``generate`` for one token, from pixels that are ready on the device; ``step_ms`` what
each further token adds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from time import perf_counter
from typing import Any

import torch
import transformers
from layer_shapes import plans
from measuring import machine, options_of, require_gpu, write

from luvc_export import compressed
from luvc_export.core.named_plans import PICTURES
from luvc_export.demo import CHECKPOINT
from luvc_export.errors import LuvcError
from luvc_export.export import families
from luvc_export.export.families.base import ReferencePrompt
from luvc_export.export.synthetic import presets

MODELS = ("qwen2.5-vl-3b", "qwen2.5-vl-7b")
NEW = 9


def random_model(config: dict[str, Any], device: str, dtype: torch.dtype) -> Any:
    """The model of a ``config.json`` with random weights, made on ``device``."""
    torch.manual_seed(0)
    read = transformers.AutoConfig.for_model(**config)
    with torch.device(device):
        return transformers.AutoModelForImageTextToText.from_config(read, dtype=dtype).eval()


def prompts(family: Any, model: Any, side: int, text: int, dtype: torch.dtype) -> Iterator[dict[str, Any]]:
    """Inputs of new pictures of ``side`` by ``side`` units between two halves of ``text`` new tokens, without end."""
    draw, pixels = torch.Generator().manual_seed(0), side * family.unit_pixels(model.config)
    image = family.image_token_id(model.config)
    most = min(2000, image)
    while True:
        ids = torch.randint(most // 4, most, (text,), generator=draw).tolist()
        picture = torch.randn(1, 2, pixels, pixels, 3, generator=draw).to(dtype)
        prompt = ReferencePrompt(picture, [*ids[: text // 2], image, *ids[text // 2 :]])
        inputs = family.reference_inputs(model.config, prompt)
        yield {name: value.to(model.device) for name, value in inputs.items() if isinstance(value, torch.Tensor)}


def answer_ms(model: Any, inputs: dict[str, Any], tokens: int) -> float:
    """Milliseconds of an answer of so many tokens, by the wall clock."""
    begin = perf_counter()
    model.generate(**inputs, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False)
    if model.device.type == "cuda":
        torch.cuda.synchronize()
    return (perf_counter() - begin) * 1e3


def time_model(name: str, config: dict[str, Any], options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each size of picture and plan."""
    dtype = torch.bfloat16 if options.device == "cuda" else torch.float32
    model = random_model(config, options.device, dtype)
    family = families.find(config["model_type"], name)
    shape, rows = family.decoder_shape(model.config), []
    for side in options.sides:
        named = plans(shape, (side, side), options.text, family.encoder_shape(model.config))
        named = {plan: named[plan] for plan in dict.fromkeys(("none", *options.plans))}
        asked = prompts(family, model, side, options.text, dtype)
        first: dict[str, list[float]] = {plan: [] for plan in named}
        whole: dict[str, list[float]] = {plan: [] for plan in named}
        for run in range(options.runs + 1):
            for plan_name, plan in named.items():
                with nullcontext() if plan_name == "none" else compressed(model, plan), torch.inference_mode():
                    times = [answer_ms(model, next(asked), tokens) for tokens in (1, NEW)]
                if run:
                    first[plan_name].append(times[0])
                    whole[plan_name].append(times[1])
        for plan_name, plan in named.items():
            middle = statistics.median(first[plan_name])
            row = {"model": name, "dtype": str(dtype).removeprefix("torch."), "units": side * side, "plan": plan_name}
            row |= {"visual_tokens": plan.vision_tokens, "text_tokens": options.text, "first_token_ms": middle}
            row |= {"least_ms": min(first[plan_name]), "first_token_speedup": statistics.median(first["none"]) / middle}
            rows.append(row | {"step_ms": (statistics.median(whole[plan_name]) - middle) / (NEW - 1)})
    return rows


def main(arguments: list[str] | None = None) -> int:
    """Write the measurement; exit code 3 without a GPU."""
    parser = options_of(__doc__, MODELS, runs=11)
    parser.add_argument("--plans", nargs="+", choices=("none", *PICTURES), default=[*PICTURES], help="none always")
    options = parser.parse_args(arguments)
    try:
        require_gpu(options.device, options.out)
        where, rows = machine(options.device), []
        models = {"bundled": str(CHECKPOINT)} if options.tiny else {name: name for name in options.models}
        for name, source in models.items():
            rows += time_model(name, presets.find(source).config, options)
        title = "transformers as it comes, and with compression inside (random weights)"
        print(write(options.out, "transformers", title, where, rows).read_text(encoding="utf-8"))
    except LuvcError as error:
        print(f"time_transformers: nothing was measured: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
