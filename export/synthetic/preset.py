"""What a published model is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

#: What the processors of SigLIP and of CLIP towers normalise by.
HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
CLIP = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}


@dataclass(frozen=True)
class Preset:
    """A published model.

    Args:
        source: Hub id its config was read from.
        config: Content of ``config.json``.
        tokens: Special tokens by id.
        image: What the chat template writes for an image; empty where the model has no chat template.
        end: Token that ends a turn.
        processor: Content of ``preprocessor_config.json``.
        video: What the chat template writes for a video; empty where it has none.
    """

    source: str
    config: dict[str, Any]
    tokens: dict[int, str]
    image: str
    end: str
    processor: dict[str, Any]
    video: str = ""


def sizes(
    hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int | None = None, **more: Any
) -> dict[str, Any]:
    """Sizes of a text model or, without ``kv_heads``, of a vision tower, under the names of its config."""
    keys = {} if kv_heads is None else {"num_key_value_heads": kv_heads}
    return {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        **keys,
        **more,
    }
