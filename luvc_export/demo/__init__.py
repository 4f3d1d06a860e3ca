"""The bundled models and their task: pictures of coloured digits, drawn on the fly, and questions about them."""

from __future__ import annotations

from pathlib import Path

from luvc_export.demo.scene import HEIGHT, WIDTH

#: An ordinary Hugging Face checkpoint (Qwen2.5-VL architecture, 3.7 M parameters), trained for this project; what it
#: can do is in MODEL_CARD.md beside it.
CHECKPOINT = Path(__file__).parent / "checkpoint"

#: One that embeds such pictures (ColQwen2's form, 6.1 M parameters): examples/glyph_search.
RETRIEVER = Path(__file__).parent / "retriever"

#: What verbs and functions that take a checkpoint call them.
NAME = "demo"
NAMES = {NAME: CHECKPOINT, "demo-search": RETRIEVER}

#: Height and width of the pictures the bundled models were trained on.
IMAGE_SIZE = (HEIGHT, WIDTH)


def checkpoint_named(model: str) -> str:
    """A bundled checkpoint's folder for its name, unless a checkpoint of that name lies here; else ``model``."""
    return model if (Path(model) / "config.json").is_file() else str(NAMES.get(model, model))
