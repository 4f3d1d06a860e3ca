"""The plan of a compressed model and its parts: encoder, LLM, what images share; frozen, JSON both ways.

The vocabulary (unit, grid, budget, merge pass, prune) and which part has which field: docs/algorithm.md. The abstract
of arXiv 2512.09010 states merging per spatial axis in the encoder and gradual low-pass pruning to zero in the LLM;
every switch is a reconstruction.
"""

from __future__ import annotations

from luvc_export.core.plan.encoder import POSITION_COPIES, EncoderPlan, EncoderPrune, MergeMode, Positions, Windows
from luvc_export.core.plan.llm import TENSORRT_TOPK_LIMIT, Axis, LastLayer, LlmPlan, Method, Reducer, Spectrum
from luvc_export.core.plan.merging import MergePass
from luvc_export.core.plan.plan import SCHEMA_VERSION, Plan, read_plan
from luvc_export.core.plan.sharing import Quota, Sharing
from luvc_export.core.plan.stripes import STRIPED, Stripes

__all__ = [
    "POSITION_COPIES",
    "SCHEMA_VERSION",
    "STRIPED",
    "TENSORRT_TOPK_LIMIT",
    "Axis",
    "EncoderPlan",
    "EncoderPrune",
    "LastLayer",
    "LlmPlan",
    "MergeMode",
    "MergePass",
    "Method",
    "Plan",
    "Positions",
    "Quota",
    "Reducer",
    "Sharing",
    "Spectrum",
    "Stripes",
    "Windows",
    "read_plan",
]
