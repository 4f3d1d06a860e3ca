"""What runs it, and what it refuses; answers of its graphs: tests/runtime/trt/test_trt_codes.py."""

from __future__ import annotations

import pytest
from surgery_harness import Traced, cut, fired

from luvc_export.core.target import TargetSpec
from luvc_export.errors import CheckFailed
from luvc_export.export.surgeon.passes import append_kv

APPEND = TargetSpec("cpu-append", "onnx", opset=24, topk_limit=None, kv="append")


def test_only_decoders_of_this_form_whose_capacity_is_known(traced: Traced) -> None:
    assert fired(traced.decoder, append_kv) == (0, "the target's KV form is attention")
    assert fired(traced.vision, append_kv, target=APPEND) == (0, "the vision graph has no cache")
    with pytest.raises(CheckFailed, match="need the text capacity"):
        cut(traced.decoder, append_kv, target=APPEND)


def test_caches_that_are_no_codes_are_refused(traced: Traced) -> None:
    """Nothing but DequantizeLinear may read what the runtime puts rows behind."""
    with pytest.raises(CheckFailed, match="a cache of codes is read by something else"):
        cut(traced.decoder, append_kv, target=APPEND, text_capacity=16)
