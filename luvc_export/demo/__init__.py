"""The bundled model and its task: pictures of coloured digits, rendered on the fly, and questions about them."""

from __future__ import annotations

from pathlib import Path

#: An ordinary Hugging Face checkpoint (Qwen2.5-VL architecture, 4.4 M parameters), trained for this project.
CHECKPOINT = Path(__file__).parent / "checkpoint"

#: Height and width of the pictures the bundled model was trained on.
IMAGE_SIZE = (252, 252)
