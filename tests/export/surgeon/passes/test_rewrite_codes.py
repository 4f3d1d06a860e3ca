"""What a stranger's graph says is to be written for a target is neither believed nor written."""

from __future__ import annotations

import json

import pytest
from surgery_harness import small

from luvc_export.bundle.codes import KEY, Place, Rewrite, file_of
from luvc_export.core.target import ORT_CPU
from luvc_export.errors import BundleError
from luvc_export.export.surgeon import run_passes


def planted(file: str) -> Rewrite:
    """Sixteen codes that lie in the bundle, to be written to ``file``."""
    place = Place("weights", 0, 8)
    return Rewrite((16, 1), 16, "", {"codes": place, "scales": place}, [1, 1], "float32", {"codes": Place(file, 0, 8)})


def test_a_graph_says_nothing_of_what_is_written_for_a_target() -> None:
    model = small("g (float[2] x) => (float[2] y) { y = Neg(x) }")
    model.metadata_props.add(key=KEY, value=json.dumps([planted("../../planted").to_json()]))
    after, _ = run_passes(model, ORT_CPU, passes=[])
    assert KEY not in {item.key for item in after.metadata_props}


@pytest.mark.parametrize("file", ["../planted", "/tmp/planted", "luvc.json", ""])
def test_only_files_of_rewritten_weights_are_written(file: str) -> None:
    with pytest.raises(BundleError, match=r"another file for rewritten weights(.|\n)*weights\.codes\.vision"):
        Rewrite.from_json(planted(file).to_json())
    assert Rewrite.from_json(planted(file_of("decoder")).to_json()) == planted(file_of("decoder"))
