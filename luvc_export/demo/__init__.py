"""The bundled model and its task: pictures of coloured digits, drawn on the fly, and questions about them."""

from __future__ import annotations

from pathlib import Path

from luvc_export.demo.scene import HEIGHT, WIDTH

#: An ordinary Hugging Face checkpoint (Qwen2.5-VL architecture, 3.7 M parameters), trained for this project; what it
#: can do is in MODEL_CARD.md beside it.
CHECKPOINT = Path(__file__).parent / "checkpoint"

#: Height and width of the pictures the bundled model was trained on.
IMAGE_SIZE = (HEIGHT, WIDTH)
