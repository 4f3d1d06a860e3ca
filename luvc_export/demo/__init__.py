"""The bundled model and its task: pictures of coloured digits, drawn on the fly, and questions about them."""

from __future__ import annotations

from pathlib import Path

from luvc_export.demo.scene import HEIGHT, WIDTH

#: An ordinary Hugging Face checkpoint (Qwen2.5-VL architecture, 3.7 M parameters), trained for this project; what it
#: can do is in MODEL_CARD.md beside it.
CHECKPOINT = Path(__file__).parent / "checkpoint"

#: What verbs and functions that take a checkpoint call it.
NAME = "demo"

#: Height and width of the pictures the bundled model was trained on.
IMAGE_SIZE = (HEIGHT, WIDTH)


def checkpoint_named(model: str) -> str:
    """The bundled checkpoint's folder for ``demo``, unless a checkpoint of that name lies here; else ``model``."""
    return str(CHECKPOINT) if model == NAME and not (Path(model) / "config.json").is_file() else model
