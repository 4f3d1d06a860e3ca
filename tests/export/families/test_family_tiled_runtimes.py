"""Pictures cut to tiles, by a plan that merges and prunes: OpenVINO cuts, keeps and says what ONNX Runtime does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import family_chat
import family_harness as harness
import numpy as np
import pytest
from family_harness import TOLERANCE
from family_questions import scenery, small
from test_family_answers import chat

from luvc_export import export_bundle
from luvc_export.runtime.session import Session

pytest.importorskip("openvino", reason="pip install 'luvc-export[openvino]'")


@pytest.mark.parametrize("name", ["internvl", "llava_onevision"])
def test_openvino_takes_tiles_as_onnx_runtime_does(name: str, tmp_path: Path) -> None:
    tiny = small(name)
    made = str(family_chat.save(tiny, tmp_path / "checkpoint"))
    options: dict[str, Any] = {"image_size": tiny.size, "tiles": ((1, 1), (1, 2)), "text_capacity": 256}
    bundle = export_bundle(made, tmp_path / "bundle", {"thirds": tiny.thirds}, **options)
    ours, theirs = (Session(bundle, backend, threads=1, arithmetic="fp32") for backend in ("openvino", "cpu"))
    wide, square = scenery(tiny, 1, 2), scenery(tiny, 1, 1)
    for pictures, tiles in (([wide], ((1, 2),)), ([square, wide], ((1, 1), (1, 2)))):
        requests = [one.prepare(pictures, messages=chat(len(pictures))) for one in (ours, theirs)]
        assert len(requests[0].images) > len(pictures)
        seen = [one.encode_images(each.images) for one, each in zip((ours, theirs), requests, strict=True)]
        assert harness.difference(seen[0].embeds, seen[1].embeds) < TOLERANCE
        found, expected = (
            one.generate(pictures, messages=chat(len(pictures)), max_new_tokens=8) for one in (ours, theirs)
        )
        assert found.token_ids == expected.token_ids
        assert found.selection.tiles == expected.selection.tiles == tiles
        assert np.array_equal(found.selection.merged_into, expected.selection.merged_into)
        assert found.selection.kept.keys() == expected.selection.kept.keys() and expected.selection.kept
        for layer, kept in expected.selection.kept.items():
            assert np.array_equal(found.selection.kept[layer], kept)
