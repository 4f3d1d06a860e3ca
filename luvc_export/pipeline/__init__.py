"""The public verbs: plan, export, build, load. Each is one call; the CLI is a thin layer on them."""

from luvc_export.pipeline.engines import build_engine, finish_graphs, prepare_build
from luvc_export.pipeline.exporting import export_bundle
from luvc_export.pipeline.loading import load_bundle
from luvc_export.pipeline.plans import make_plan, make_plans

__all__ = [
    "build_engine",
    "export_bundle",
    "finish_graphs",
    "load_bundle",
    "make_plan",
    "make_plans",
    "prepare_build",
]
