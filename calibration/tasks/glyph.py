"""The bundled task: pictures of coloured digits; splits ``heldout`` and ``harder`` (unseen fonts and sizes)."""

from __future__ import annotations

from luvc_export.calibration.tasks import Task
from luvc_export.demo import CHECKPOINT, IMAGE_SIZE, questions

TASK = Task(
    name="glyph",
    checkpoint=CHECKPOINT,
    image_size=IMAGE_SIZE,
    cases=lambda split, count, seed: questions.cases(split, count, seed),
    search=("heldout", 1),
    report=("heldout", 0),
    longest=8,
)
