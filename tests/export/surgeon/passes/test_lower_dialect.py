"""The operators of TensorRT 10.3."""

from __future__ import annotations

import pytest
from surgery_harness import RTX, TRT103, Traced, broken, cut, fired, operators, small

from luvc_export.errors import CheckFailed
from luvc_export.export.surgeon.passes import lower_dialect


def test_primitive_has_no_new_operator(traced: Traced) -> None:
    for model in (traced.vision, traced.decoder):
        made = cut(model, target=TRT103)
        assert not operators(made, "Attention", "RotaryEmbedding", "RMSNormalization")
        assert made.opset_import[0].version == 20
        assert made.ir_version <= 10
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
