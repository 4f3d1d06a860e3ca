"""transformers with SDPA attention. Pixels are prepared beforehand: its time to first token leaves that out."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import common


def prepare(options: dict[str, Any]) -> None:
    """Nothing to convert."""


def question(checkpoint: str) -> tuple[Any, dict[str, Any]]:
    """The model, and what it is asked: one picture between two halves of the text."""
    import torch
    import transformers

    kind = transformers.Qwen2_5_VLForConditionalGeneration
    model = kind.from_pretrained(checkpoint, dtype=torch.float32, attn_implementation="sdpa").eval()
    ids = common.text_ids()
    half = len(ids) // 2
    whole = [*ids[:half], *[common.IMAGE_TOKEN] * common.VISUAL, *ids[half:]]
    patches = (common.SIDE // 14) ** 2
    return model, {
        "input_ids": torch.tensor([whole]),
        "attention_mask": torch.ones(1, len(whole), dtype=torch.int64),
        "pixel_values": torch.randn(patches, 3 * 2 * 14 * 14),
        "image_grid_thw": torch.tensor([[1, common.SIDE // 14, common.SIDE // 14]]),
        "mm_token_type_ids": (torch.tensor([whole]) == common.IMAGE_TOKEN).int(),
    }


def times(options: dict[str, Any]) -> dict[str, Any]:
    """Generate greedily; end tokens cannot end it."""
    import torch
    import transformers

    model, given = question(options["checkpoint"])

    def generate(count: int) -> Any:
        with torch.inference_mode():
            return model.generate(**given, max_new_tokens=count, min_new_tokens=count, do_sample=False)

    llm: list[float] = []
    model.model.language_model.register_forward_pre_hook(lambda *_: llm.append(-perf_counter()))
    model.model.language_model.register_forward_hook(lambda *_: llm.append(llm.pop() + perf_counter()))
    ttft, speed = common.timed(lambda: generate(1), lambda: generate(common.NEW))
    version = f"transformers {transformers.__version__}, torch {torch.__version__}"
    return common.answer(version, common.VISUAL, ttft, speed, llm[1 : common.RUNS + 1])


if __name__ == "__main__":
    common.main(prepare, times)
