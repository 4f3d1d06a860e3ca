"""Digits on pale grounds for the deeper model of ``examples/glyph_deep``; see ``glyph_deep.py``."""

from __future__ import annotations

from luvc_export.calibration.tasks.glyph_deep import task

TASK = task("glyph-deep-plain", "plain")
