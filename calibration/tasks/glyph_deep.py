"""Pages, and digits on pale and busy grounds: the tasks of ``examples/glyph_deep``, whose model is no part of a wheel.

``glyph-deep`` asks about pages; ``glyph-deep-plain`` and ``glyph-deep-textured`` about digits. Each has the other
grounds as splits too (``plain``, ``textured``, ``pages``), for models that take pictures of several sizes.
"""

from __future__ import annotations

from luvc_export.calibration.tasks import Task, checkpoint_of, example


def task(name: str, ground: str) -> Task:
    """The task about one ground."""
    cases = example("glyph_deep", "data.cases")
    return Task(
        name=name,
        checkpoint=checkpoint_of("glyph_deep"),
        image_size=cases.SIZES[ground],
        cases=cases.cases,
        search=(f"search-{ground}", 0),
        report=(ground, 0),
        longest=cases.LONGEST,
    )


TASK = task("glyph-deep", "pages")
