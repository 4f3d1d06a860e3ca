"""cos and sin of both spans."""

from __future__ import annotations

import numpy as np
import pytest
from surgery_harness import Traced, cut, fired, operators, run, small

from luvc_export.export.surgeon.passes import fold_shapes, fuse_spectrum_prune, share_rope


def test_angles_are_computed_once(traced: Traced) -> None:
    assert operators(traced.decoder, "Cos", "Sin") == 4
    shared = cut(cut(traced.decoder, fuse_spectrum_prune, share_rope), fold_shapes)
    assert operators(shared, "Cos", "Sin") == 2


ANGLES = """g (float[1,S,2] a, float[1,T,2] b, float[1,1,L,4] x) => (float[1,1,L,4] y)
    <float f = {2}, float h = {HALF}> {
    p = Mul(a, f)
    q = Mul(b, h)
    c = Cos(p)
    d = Cos(q)
    all = Concat<axis=1>(c, d)
    y = RotaryEmbedding(x, all, all)
}"""


def test_unlike_angles_stay() -> None:
    model = small(ANGLES.replace("HALF", "0.5"))
    assert fired(model, share_rope) == (
        0,
        "two parts of a cache are not made alike; every cos and sin is computed once already",
    )
    assert fired(small(ANGLES.replace("HALF", "2")), share_rope)[0] == 1


def test_angles_sabotage(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small(ANGLES.replace("HALF", "0.5"))
    monkeypatch.setattr(share_rope, "_constants_equal", lambda x, y: True)
    random = np.random.default_rng(0)
    inputs = {
        n: random.normal(size=s).astype(np.float32)
        for n, s in (("a", (1, 2, 2)), ("b", (1, 3, 2)), ("x", (1, 1, 5, 4)))
    }
    shared = cut(model, share_rope)
    assert np.abs(run(model, inputs)["y"] - run(shared, inputs)["y"]).max() > 0.1
