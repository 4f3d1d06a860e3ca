"""The operators of TensorRT 10.3."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from surgery_harness import RTX, TRT103, Traced, broken, cut, fired, operators, session, small

from luvc_export.core.target import ORT_CPU
from luvc_export.errors import CheckFailed
from luvc_export.export.surgeon.passes import lower_dialect


def test_primitive_has_no_new_operator(traced: Traced) -> None:
    for model in (traced.vision, traced.decoder):
        lowered = cut(model, target=TRT103)
        assert not operators(lowered, "Attention", "RotaryEmbedding", "RMSNormalization")
        assert lowered.opset_import[0].version == 20
        assert lowered.ir_version <= 10
    assert fired(traced.decoder, lower_dialect, target=RTX) == (0, "the graph is opset 23 already")


@pytest.mark.parametrize("change", ["operator", "attribute", "type"])
def test_allow_list_refuses(change: str) -> None:
    body = {
        "operator": "y = Swish(x)",
        "attribute": "y, i = TopK<sorted=0>(x, k)",
        "type": "c = Cast<to=11>(x)\n d = Abs(c)\n y = Cast<to=1>(d)",
    }
    model = small(f"g (float[2,4] x) => (float[2,n] y) <int64[1] k = {{2}}> {{ {body[change]} }}", opset=24)
    with pytest.raises(CheckFailed, match="parser lacks"):
        cut(model, lower_dialect, target=TRT103)


def test_dialect_sabotage(traced: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lower_dialect, "_NEVER", 0.0)
    assert broken(traced.decoder, lambda: cut(traced.decoder, target=TRT103), traced, "fp32")


def test_capped_attention_is_written_out_where_the_parser_refuses_it() -> None:
    inputs = "float[2,4,3,8] q, float[2,2,5,8] k, float[2,2,5,8] v, bool[2,1,3,5] m"
    capped, plain = (
        small(f"g ({inputs}) => (float[2,4,3,8] y) {{ y = Attention<scale=0.3{cap}>(q, k, v, m) }}", opset=23)
        for cap in (", softcap=2.0", "")
    )
    lowered = cut(capped, lower_dialect, target=RTX)
    assert operators(lowered, "Tanh") == operators(lowered, "Softmax") == 1 and not operators(lowered, "Attention")
    assert fired(capped, lower_dialect, target=ORT_CPU) == (0, "the graph is opset 23 already")
    random = np.random.default_rng(0)
    feeds: dict[str, Any] = {"q": random.normal(size=(2, 4, 3, 8)), "k": random.normal(size=(2, 2, 5, 8))}
    feeds |= {"v": random.normal(size=(2, 2, 5, 8))}
    feeds = {name: (4 * value).astype(np.float32) for name, value in feeds.items()}
    feeds |= {"m": np.array([True, False, True, False, True])[None, None, None].repeat(2, 0).repeat(3, 2)}
    written, expected, without = (session(one).run(None, feeds)[0] for one in (lowered, capped, plain))
    assert np.abs(written - expected).max() < 1e-5
    assert np.abs(written - without).max() > 0.1
