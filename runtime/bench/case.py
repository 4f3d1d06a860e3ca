"""What is timed: one plan of a bundle with so many images, text tokens and new tokens; and what one run of it gives."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path

from luvc_export.core.options import option
from luvc_export.runtime.call_times import CallTimes
from luvc_export.runtime.session_options import SessionOptions


@dataclass(frozen=True)
class BenchCase(SessionOptions):
    """One thing to time: the options of a session, by name, and a question's size.

    Drafts of ``speculate`` say nothing of a model's here: answers of random weights repeat themselves.

    Args:
        bundle: Folder.
        label: Name in tables.
    """

    bundle: Path = option(..., "Bundle folder, or FOLDER#PLAN.", argument=True, written=str, read=Path)
    images: int = option(1, "Images in the prompt.", least=0)
    text: int = option(64, "Text tokens in the prompt.", least=1)
    new_tokens: int = option(16, "Tokens of the answer, all of them made.", least=1)
    label: str = ""


@dataclass(frozen=True)
class Sample:
    """One run, milliseconds.

    Args:
        preprocess_ms: A picture opened and fitted, template and tokenizer; not part of the times below but of the TTFT.
        vision_ms: The vision graph.
        prefill_ms: The decoder graph over the whole prompt, its inputs made.
        ttft_ms: preprocess, vision, prefill and choosing the first token.
        decode_ms: The other tokens together.
        tokens_per_s: Of those.
        outside_ms: What of preprocess to the last token was not spent inside the graphs.
        total_ms: Everything.
        tokens_per_step: Tokens that a decoder call gave, after the first.
        acceptance_length: Of calls that had a draft, the model's own token included; 1 without drafts.
        acceptance: See ``DraftCounts``; NaN without drafts.
        drafted: Tokens of a draft; 0 without drafts.
        calls: What calls of the decoder took, by part and engine, those of a draft model included. Where tokens are
            drafted, some steps of one token follow the answer, to compare with.
    """

    preprocess_ms: float
    vision_ms: float
    prefill_ms: float
    ttft_ms: float
    decode_ms: float
    tokens_per_s: float
    outside_ms: float
    total_ms: float
    tokens_per_step: float = 1.0
    acceptance_length: float = 1.0
    acceptance: float = math.nan
    drafted: float = 0.0
    calls: tuple[CallTimes, ...] = ()


@dataclass(frozen=True)
class CaseFacts:
    """What does not change between runs.

    Args:
        label: The case's.
        plan: Name of the plan.
        backend: What ran the graphs.
        arithmetic: What products were computed in.
        load_ms: From the bundle's folder to graphs ready to run.
        compile_ms: What of that the back-end compiled; None where it does not say.
        first_ms: The first answer after that, whatever it had to make included.
        peak_mib: Most memory the process held, from start to end, mapped weights included; None if unknown.
        anonymous_mib: What of the memory held after the last run no file backs; None if unknown.
        kv_mib: Every layer's cache after the last token.
        visual_tokens: In each layer's cache.
        prefill_flops: LLM layers and the logits of one token, see ``luvc_export.core.budgets``.
        decode_bytes: Weights and cache one decode step reads.
    """

    label: str
    plan: str
    backend: str
    arithmetic: str
    load_ms: float
    compile_ms: float | None
    first_ms: float
    peak_mib: float | None
    anonymous_mib: float | None
    kv_mib: float
    visual_tokens: tuple[int, ...]
    prefill_flops: int
    decode_bytes: int


METRICS = tuple(field.name for field in fields(Sample) if field.name != "calls")
