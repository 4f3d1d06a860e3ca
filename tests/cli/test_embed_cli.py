"""``luvc-export embed``: vectors of the session in a file and as JSON, and what it refuses."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from cli_words import Cli
from PIL import Image

sys.path.append(str(Path(__file__).resolve().parents[1] / "export" / "families"))
import vector_bundles

from luvc_export.runtime.session import Session


@pytest.fixture(scope="module")
def pages(pytestconfig: pytest.Config) -> Path:
    return vector_bundles.kept(pytestconfig.cache.mkdir("vectors-qwen2_vl"), "qwen2_vl") / "bundle"


def test_vectors_go_into_a_file_or_are_printed(pages: Path, tmp_path: Path, cli: Cli) -> None:
    height, width = vector_bundles.tiny_of("qwen2_vl").size
    picture, out = tmp_path / "page.png", tmp_path / "pages.npy"
    Image.new("RGB", (width, height), (200, 30, 90)).save(picture)
    words = ("embed", str(pages), "--backend", "cpu", "--image", str(picture), "--text", "x", "--dimensions", "32")
    code, printed, _ = cli(*words, "--output", str(out))
    wanted = Session(pages, "cpu").embed(pairs=[(picture, "x")], dimensions=32)
    assert code == 0 and "1 vectors of 32 numbers" in printed
    assert np.load(out).dtype == np.float32 and np.abs(np.load(out) - wanted).max() < 1e-5
    code, printed, _ = cli(*words, "--json", "--prompt-name", "document")
    facts = json.loads(printed)
    assert code == 0 and facts["shape"] == [1, 32]
    assert np.abs(np.array(facts["vectors"]) - wanted).max() > 1e-2
    code, printed, _ = cli(*words, "--json", "--embed-dtype", "int8")
    facts = json.loads(printed)
    assert code == 0 and facts["shape"] == [1, 32]
    assert np.abs(np.array(facts["vectors"]) * facts["scales"] - wanted).max() < 5e-3


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--text", "x"), "--output FILE, or --json"),
        (("--json", "--text", "x", "--image", "a.png", "--image", "b.png"), "as many of both"),
        (("--json",), "nothing to embed"),
        (("--json", "--text", "x", "--dimensions", "20"), "may not be cut"),
        (("--json", "--text", "x", "--prompt-name", "qurey"), "no such prompt"),
        (("--json", "--text", "x", "--embed-dtype", "int4"), "did you mean 'int8'"),
        (("--json", "--text", "x", "--query", "y", "--embed-dtype", "int8"), "scores are of whole vectors"),
    ],
)
def test_what_it_refuses(words: tuple[str, ...], says: str, pages: Path, cli: Cli) -> None:
    code, _, error = cli("embed", str(pages), "--backend", "cpu", *words)
    assert code == 2 and says in error


def test_run_names_the_verb(pages: Path, cli: Cli) -> None:
    code, _, error = cli("run", str(pages), "--backend", "cpu", "--prompt", "hello")
    assert code == 2 and "luvc-export embed" in error
