"""Graph surgery: traced graphs become what a target runs fast and right. See docs/surgery.md.

``run_passes`` runs the passes of ``pass_list``, ``surgery_report`` reads back what they did, ``render`` and
``render_html`` show it.
"""

from __future__ import annotations

from luvc_export.export.surgeon.pipeline import pass_list, run_passes
from luvc_export.export.surgeon.render import render, render_html
from luvc_export.export.surgeon.report import GraphReport, PassReport, surgery_report

__all__ = ["GraphReport", "PassReport", "pass_list", "render", "render_html", "run_passes", "surgery_report"]
