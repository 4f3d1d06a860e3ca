"""The plan of a compressed model and its parts: encoder, LLM, what images share; frozen, JSON both ways.

The vocabulary (unit, grid, budget, merge pass, prune) and which part has which field: docs/algorithm.md. The abstract
of arXiv 2512.09010 states merging per spatial axis in the encoder and gradual low-pass pruning to zero in the LLM;
every switch is a reconstruction.
"""

from __future__ import annotations

from luvc_export.core.plan.encoder import EncoderPlan, EncoderPrune, MergeMode, Positions, Windows
from luvc_export.core.plan.llm import TENSORRT_TOPK_LIMIT, Axis, LastLayer, LlmPlan, Method, Reducer, Spectrum
from luvc_export.core.plan.merging import MergePass
from luvc_export.core.plan.plan import MAX_PLAN_BYTES, SCHEMA_VERSION, Plan
from luvc_export.core.plan.sharing import Quota, Sharing

__all__ = [
    "MAX_PLAN_BYTES",
    "SCHEMA_VERSION",
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
    "Windows",
]
