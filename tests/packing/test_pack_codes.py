"""A pack whose caches are codes, checked with ONNX Runtime: new rows are put behind those that are there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jetson_root
import numpy as np
import pytest

from luvc_export.bundle.folder import Bundle, load
from luvc_export.calibration import datasets
from luvc_export.calibration.quantise.cache_calibration import calibrate_caches
from luvc_export.packing import questions, record
from luvc_export.packing.inplace import InplaceCache, InplaceOrt
from luvc_export.packing.questions import PackCases
from luvc_export.packing.write import write_pack
from luvc_export.runtime.host.cache import HostCache
from luvc_export.runtime.session import Session

PLAN = "thirds_kv8"


@pytest.fixture(scope="module")
def coded(unpadded_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder, data = tmp_path_factory.mktemp("codes") / "bundle", datasets.load("glyph", count=28)
    return calibrate_caches(unpadded_bundle, data, "int8", output=folder, min_agreement=0, threads=1).bundle


@pytest.fixture(scope="module")
def pack(coded: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pack(
        coded,
        jetson_root.TARGETS["7.2"],
        tmp_path_factory.mktemp("pack") / "pack",
        lambda session, capacity: PackCases("generated", questions.generated(session.size, 1), 3),
        plan=PLAN,
        text_capacity=48,
        images=2,
    ).folder


def steps(session: Session) -> list[Any]:
    """A prompt of two pictures, a token, three tokens, and another token in place of those."""
    images = np.random.default_rng(1).integers(0, 256, (2, session.bundle.manifest.image.frames, *session.size, 3))
    image, seen = session.bundle.manifest.prompt.image_token_id, session.default.encode_images(images.astype(np.uint8))
    first = session.default.run([10, image, 40, image, 41, 42], seen)
    second = session.default.run([5], state=first.state)
    third = session.default.run([6, 7, 8], state=second.state)
    return [first, second, third, session.default.run([9], state=second.state)]


def on_cpu(pack: Path) -> list[Any]:
    own = load(pack)
    return steps(Session(own, InplaceOrt(own, PLAN, record.read(pack).capacity), PLAN))


def farthest(ours: Sequence[Any], theirs: Sequence[Any]) -> list[float]:
    """By the largest logit: the pack computes what is apart in fp16."""
    scale = max(np.abs(one.logits).max() for one in theirs)
    return [float(np.abs(one.logits - other.logits).max() / scale) for one, other in zip(ours, theirs, strict=True)]


def test_every_call_sees_the_rows_before_it(coded: Bundle, pack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows one slot further leave the call that brings them right, and make those behind it wrong."""
    theirs = steps(Session(coded, plan=PLAN, threads=1))
    ours = on_cpu(pack)
    assert max(farthest(ours, theirs)) < 0.003
    assert [one.state.cache.lengths for one in ours] == [one.state.cache.lengths for one in theirs]
    right = InplaceOrt._put_behind

    def one_slot_off(prompts: bool) -> list[float]:
        def moved(self: InplaceOrt, held: InplaceCache, rows: HostCache, groups: int) -> HostCache:
            return right(self, replace(held, text=held.text + (bool(groups) == prompts)), rows, groups)

        monkeypatch.setattr(InplaceOrt, "_put_behind", moved)
        return farthest(on_cpu(pack), theirs)

    first, *later = one_slot_off(prompts=True)
    assert first < 0.003 and min(later) > 0.006
    first, second, *later = one_slot_off(prompts=False)
    assert max(first, second) < 0.003 and min(later) > 0.006


@pytest.mark.slow(beside="packing/test_pack_codes.py::test_every_call_sees_the_rows_before_it")
def test_the_pack_is_verified(pack: Path, tmp_path: Path, verify: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = verify(pack, jetson_root.write(tmp_path / "board", "7.2"))
    assert code == 0, out + err
