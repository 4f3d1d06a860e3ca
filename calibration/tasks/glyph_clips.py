"""Films of moving and changing digits: the task of ``examples/glyph_clips``, whose model is no part of a wheel.

Splits ``heldout``, ``harder`` (unseen fonts and sizes) and ``search``; three questions about each film of 16 frames.
"""

from __future__ import annotations

from luvc_export.calibration.tasks import Task, checkpoint_of, example

_cases = example("glyph_clips", "cases")
_films = example("glyph_clips", "films")

TASK = Task(
    name="glyph-clips",
    checkpoint=checkpoint_of("glyph_clips"),
    image_size=_cases.SIZE,
    cases=_cases.cases,
    search=("search", 0),
    report=("heldout", 0),
    longest=8,
    frames=_films.FRAMES,
)
