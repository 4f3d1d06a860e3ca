"""``--scorer`` from the outside: into the bundle with its hash, through parity, and every way to be refused."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_words import Cli
from PIL import Image
from safetensors.numpy import load_file, save_file

from luvc_export.demo import CHECKPOINT, IMAGE_SIZE

SIZE = ("--image-size", f"{IMAGE_SIZE[0]}x{IMAGE_SIZE[1]}")


def scorer(path: Path, width: int, seed: int = 0, **changes: Any) -> Path:
    draw = np.random.default_rng(seed)
    maps = {name: draw.standard_normal((4, width)).astype(np.float32) for name in ("query", "key")}
    save_file({**maps, **changes}, path)
    return path


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """The first layer and the first block of the bundled checkpoint."""
    folder = tmp_path / "small"
    shutil.copytree(CHECKPOINT, folder)
    config = json.loads((CHECKPOINT / "config.json").read_text())
    config["text_config"] |= {"num_hidden_layers": 1, "layer_types": ["full_attention"]}
    config["vision_config"] |= {"depth": 1, "fullatt_block_indexes": [0]}
    (folder / "config.json").write_text(json.dumps(config))
    tensors = load_file(CHECKPOINT / "model.safetensors")
    later = re.compile(r"\b(layers|blocks)\.[1-9]")
    save_file({name: part for name, part in tensors.items() if not later.search(name)}, folder / "model.safetensors")
    return folder


@pytest.mark.slow(beside="calibration/test_scores_export.py::test_scores_are_found_by_their_files")
def test_a_bundle_has_its_scorer_and_parity_needs_it(cli: Cli, small: Path, tmp_path: Path) -> None:
    bundle, file = tmp_path / "bundle", scorer(tmp_path / "mine.safetensors", 192)
    words = ("--image-size", "112x112", "--plan", "6", "--merge-keep", 1, "--last-layer", "full", "--scorer", file)
    code, _, err = cli("export", small, "-o", bundle, *words)
    assert code == 0, err
    manifest = json.loads((bundle / "luvc.json").read_text())
    plan = manifest["plans"]["list"]["plan"]
    method = plan["llm"]["method"]
    name = f"scorer.{method['settings']['scorer'][:16]}.safetensors"
    assert method["name"] == "learned"
    assert manifest["files"][name]["sha256"] == method["settings"]["scorer"]
    assert (bundle / name).read_bytes() == file.read_bytes()
    for number in range(2):
        noise = np.random.default_rng(number).integers(0, 256, (112, 112, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{number}.png")
    lines = [json.dumps({"image": f"{number}.png", "prompt": "where is 7?"}) for number in range(2)]
    (tmp_path / "cases.jsonl").write_text("\n".join(lines))
    asked = ("parity", f"torch:{small}", f"onnx:{bundle}", "--cases", tmp_path / "cases.jsonl", "--max-new-tokens", 2)
    code, out, err = cli(*asked)
    assert code == 0, out + err

    def refusal_of() -> str:
        (bundle / "luvc.json").write_text(json.dumps(spoilt))
        code, _, err = cli(*asked)
        assert code == 2, err
        return err

    spoilt = json.loads(json.dumps(manifest))
    del spoilt["files"][name]
    assert "lacks the scorer that a plan of it names" in refusal_of()
    spoilt["files"][name] = {**manifest["files"][name], "sha256": "0" * 64}
    assert "has changed since it was exported" in refusal_of()
    other = scorer(tmp_path / "other.safetensors", 192, 1).read_bytes()  # under the first one's name, told truly
    (bundle / name).write_bytes(other)
    spoilt["files"][name] = {"sha256": hashlib.sha256(other).hexdigest(), "bytes": len(other)}
    assert "lacks the scorer that a plan of it names" in refusal_of()


@pytest.mark.parametrize(
    ("words", "width", "refusal"),
    [
        (("--plan", "even"), 100, "another width"),
        (("--plan", "even", "--score", "norm"), 192, "a scorer is for the score 'learned'"),
        (("--plan", "none"), 192, "no plan uses this scorer"),
        (
            ("--plan", "even", "--score", "learned"),
            0,
            "score 'learned' needs it: sha256 of the scorer's file, see --scorer",
        ),
        (("--plan", "80,60,40,20,10,5", "--last-layer", "full"), -1, "has not learned to prune before this layer"),
        (("--plan", "even", "--scorer", "nowhere"), 0, "there is no such scorer"),
    ],
)
def test_what_does_not_fit_is_refused(
    cli: Cli, tmp_path: Path, words: tuple[Any, ...], width: int, refusal: str
) -> None:
    options: tuple[Any, ...] = ()
    if width > 0:
        options = ("--scorer", scorer(tmp_path / "mine.safetensors", width))
    elif width < 0:
        maps = np.ones((4, 192), np.float32)
        save_file({"query.0": maps, "key.0": maps + 1}, tmp_path / "mine.safetensors")
        options = ("--scorer", tmp_path / "mine.safetensors")
    code, _, err = cli("export", CHECKPOINT, "-o", tmp_path / "out", *SIZE, *words, *options)
    assert code == 2 and refusal in err and not (tmp_path / "out").exists(), err
