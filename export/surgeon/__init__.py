"""Graph surgery: traced graphs become what a target runs fast and right. See docs/surgery.md.

``operate`` runs the passes, ``surgery_report`` reads back what they did, ``render`` and ``render_html`` show it.
"""

from luvc_export.export.surgeon.pipeline import PASSES, run_passes
from luvc_export.export.surgeon.render import render, render_html
from luvc_export.export.surgeon.report import GraphReport, PassReport, surgery_report

__all__ = ["PASSES", "GraphReport", "PassReport", "render", "render_html", "run_passes", "surgery_report"]
