"""The picture on its way to patches."""

from __future__ import annotations

import numpy as np
import pytest
from surgery_harness import RTX, Traced, broken, cut, fired, run, small

from luvc_export.export.surgeon.passes import patch_layout


def test_picture_moves_as_bytes(traced: Traced) -> None:
    after = cut(traced.vision, patch_layout)
    first = next(n for n in after.graph.node if "image" in n.input and n.op_type != "Shape")
    assert first.op_type == "Reshape"
    assert max(len(n.attribute[0].ints) for n in after.graph.node if n.op_type == "Transpose") == 7
    assert fired(traced.vision, patch_layout, target=RTX)[0] == 1


def test_picture_already_laid_out_stays(traced: Traced) -> None:
    assert fired(cut(traced.vision, patch_layout), patch_layout)[0] == 0
    assert fired(traced.decoder, patch_layout) == (0, "the decoder sees no picture")


def test_picture_sabotage(traced: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patch_layout, "_moved", lambda surgery, tensor, after: surgery.constant(0.5, "x", np.float32))
    assert broken(traced.vision, lambda: cut(traced.vision, patch_layout), traced)


FRAMES = """vision (uint8[N,2,4,6,3] image) => (float[N,24,6] patches)
<float[3] centre = {1, 2, 3}, float[3] shift = {0.1, 0.2, 0.3}, float[3] scale = {0.5, 0.25, 0.125},
 int64[8] tiles = {-1, 2, 2, 2, 1, 3, 2, 3}, int64[4] pixels = {-1, 24, 2, 3}, int64[3] flat = {-1, 24, 6}> {
  whole = Cast<to = 1>(image)
  near = Sub(whole, centre)
  moved = Add(near, shift)
  normed = Mul(moved, scale)
  cut = Reshape(normed, tiles)
  turned = Transpose<perm = [0, 2, 5, 3, 6, 1, 4, 7]>(cut)
  apart = Reshape(turned, pixels)
  colours = Transpose<perm = [0, 1, 3, 2]>(apart)
  patches = Reshape(colours, flat)
}"""


def test_real_frames_move_as_bytes_to_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arithmetic comes after both transpositions, colours inside; other targets get the Cast back in front."""
    before = small(FRAMES)
    after = cut(before, patch_layout)
    assert [n.op_type for n in after.graph.node][:5] == ["Reshape", "Transpose", "Reshape", "Transpose", "Cast"]
    image = {"image": np.random.default_rng(0).integers(0, 256, (3, 2, 4, 6, 3), np.uint8)}
    np.testing.assert_array_equal(run(after, image)["patches"], run(before, image)["patches"])
    assert fired(after, patch_layout)[0] == 0
    again = cut(after, patch_layout, target=RTX)
    assert again.graph.node[0].op_type == "Cast"
    np.testing.assert_array_equal(run(again, image)["patches"], run(before, image)["patches"])
    assert fired(before, patch_layout, target=RTX)[0] == 0
    own = patch_layout._moved
    monkeypatch.setattr(patch_layout, "_moved", lambda surgery, tensor, after: own(surgery, tensor, after + 1))
    wrong = run(small(FRAMES), image)["patches"]
    with pytest.raises(Exception, match=r"broadcast|differ|Mismatch|dimension|shape"):
        np.testing.assert_array_equal(run(cut(before, patch_layout), image)["patches"], wrong)


def test_frames_whose_colours_stay_outside_are_left() -> None:
    """Another second transposition is another layout."""
    other = small(FRAMES.replace("[0, 1, 3, 2]", "[0, 1, 2, 3]"))
    assert fired(other, patch_layout)[0] == 0
