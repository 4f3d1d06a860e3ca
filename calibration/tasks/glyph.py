"""The bundled task: pictures of coloured digits."""

from __future__ import annotations

from luvc_export.calibration.tasks import Task
from luvc_export.demo import CHECKPOINT, IMAGE_SIZE, glyphs

TASK = Task(
    name="glyph",
    checkpoint=CHECKPOINT,
    image_size=IMAGE_SIZE,
    cases=lambda split, count, seed: glyphs.cases(split, count, seed),
    search=("calibration", 0),
    report=("heldout", 0),
    longest=1,
    stops=False,
)
