"""Triton's model of families whose layers keep states: a chat's turns and what comes between them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from slow_cases import slow_but
from test_triton_model import args, ask, png
from triton_python_backend_utils import bytes_array

from luvc_export.runtime.session import Session
from luvc_export.triton.model import TritonPythonModel

sys.path.append(str(Path(__file__).parents[1] / "export" / "families"))
import family_bundles

PICTURE = np.arange(60 * 90 * 3, dtype=np.uint8).reshape(60, 90, 3)


@pytest.mark.parametrize("name", slow_but(["lfm2_vl"], ["lfm2_vl", "qwen3_5"]))
def test_states_begin_anew_with_each_request(name: str, pytestconfig: Any, tmp_path: Path) -> None:
    bundle = family_bundles.exported(pytestconfig.cache.mkdir(f"family-{name}"), name, tmp_path)
    assert bundle.manifest.decoder.states
    served, session = TritonPythonModel(), Session(bundle, "cpu", threads=1)
    served.initialize(args(str(bundle.folder)))
    limit = {"max_tokens": np.array([8], np.int32)}
    for prompt, shown in (("Hi word", [PICTURE]), ("word", []), ("Hi word", [PICTURE])):
        right = session.generate(shown, prompt, max_new_tokens=8)
        images = {"image": bytes_array(*map(png, shown))} if shown else {}
        ((response, _),) = ask(served, prompt=bytes_array(prompt), **images, **limit)
        assert response.error is None and response.said()["text"] == right.text
        assert response.said()["completion_tokens"] == len(right.token_ids) == 8
