"""transformers with SDPA attention. Pixels are prepared beforehand: its time to first token leaves that out."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import common


def prepare(options: dict[str, Any]) -> None:
    """Nothing to convert."""


def load(checkpoint: str, dtype: str = "float32") -> Any:
    """The model."""
    import torch
    import transformers

    kind = transformers.Qwen2_5_VLForConditionalGeneration
    return kind.from_pretrained(checkpoint, dtype=getattr(torch, dtype), attn_implementation="sdpa").eval()


def question(run: int, dtype: str = "float32") -> dict[str, Any]:
    """What ``run`` asks: one picture between two halves of the text."""
    import torch

    ids = common.text_ids(run)
    half = len(ids) // 2
    whole = [*ids[:half], *[common.IMAGE_TOKEN] * common.VISUAL, *ids[half:]]
    patches = (common.SIDE // 14) ** 2
    torch.manual_seed(run)
    return {
        "input_ids": torch.tensor([whole]),
        "attention_mask": torch.ones(1, len(whole), dtype=torch.int64),
        "pixel_values": torch.randn(patches, 3 * 2 * 14 * 14, dtype=getattr(torch, dtype)),
        "image_grid_thw": torch.tensor([[1, common.SIDE // 14, common.SIDE // 14]]),
        "mm_token_type_ids": (torch.tensor([whole]) == common.IMAGE_TOKEN).int(),
    }


def clip_question(run: int, dtype: str = "float32") -> dict[str, Any]:
    """What ``run`` asks about a clip, likewise."""
    import torch

    ids = common.text_ids(run)
    half, side = len(ids) // 2, common.CLIP_SIDE // 14
    whole = [*ids[:half], *[common.VIDEO_TOKEN] * common.CLIP_VISUAL, *ids[half:]]
    torch.manual_seed(run)
    return {
        "input_ids": torch.tensor([whole]),
        "attention_mask": torch.ones(1, len(whole), dtype=torch.int64),
        "pixel_values_videos": torch.randn(common.FRAMES // 2 * side**2, 3 * 2 * 14 * 14, dtype=getattr(torch, dtype)),
        "video_grid_thw": torch.tensor([[common.FRAMES // 2, side, side]]),
        "second_per_grid_ts": [2 / common.CLIP_FPS],
        "mm_token_type_ids": 2 * (torch.tensor([whole]) == common.VIDEO_TOKEN).int(),
    }


def times(options: dict[str, Any]) -> dict[str, Any]:
    """Generate greedily; end tokens cannot end it."""
    import torch
    import transformers

    dtype = options.get("dtype", "float32")
    model = load(options["checkpoint"], dtype)
    asks, visual = (clip_question, common.CLIP_VISUAL) if options.get("clip") else (question, common.VISUAL)

    def generate(run: int, count: int) -> Any:
        inputs = asks(run, dtype)
        with torch.inference_mode():
            return model.generate(**inputs, max_new_tokens=count, min_new_tokens=count, do_sample=False)

    if options.get("steps"):

        def ask(run: int, count: int) -> list[float]:
            marks = [perf_counter()]

            def mark(ids: Any, scores: Any) -> Any:
                marks.append(perf_counter())
                return scores

            asked = question(run, dtype)
            with torch.inference_mode():
                model.generate(
                    **asked, max_new_tokens=count, min_new_tokens=count, do_sample=False, logits_processor=[mark]
                )
            return marks

        head = model.lm_head.weight.numel()
        weights = sum(part.numel() for part in model.model.language_model.layers.parameters()) + head
        return {
            **common.stepped(ask),
            "version": f"transformers {transformers.__version__}, torch {torch.__version__}, {dtype}",
            "bytes": weights * model.lm_head.weight.element_size(),
        }

    llm: list[float] = []
    model.model.language_model.register_forward_pre_hook(lambda *_: llm.append(-perf_counter()))
    model.model.language_model.register_forward_hook(lambda *_: llm.append(llm.pop() + perf_counter()))
    ttft, speed = common.timed(generate)
    version = f"transformers {transformers.__version__}, torch {torch.__version__}, {dtype}"
    calls = 1 + common.NEW  # of a turn: one token, then NEW; after the two of the warm-up
    return common.answer(version, visual, ttft, speed, llm[2::calls][: common.RUNS])


if __name__ == "__main__":
    common.main(prepare, times)
