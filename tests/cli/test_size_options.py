"""``--image-tokens``: sizes from ceilings of visual tokens."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "export" / "families"))
import numpy as np
import pytest
import timm_stand_in
from cli_words import Cli
from safetensors.numpy import save_file

from luvc_export.cli.groups import SizeOptions, one_size
from luvc_export.errors import UsageError
from luvc_export.export import families
from luvc_export.export.synthetic import presets


def _checkpoint(name: str) -> Any:
    family = families.find(name, "test")
    return SimpleNamespace(family=family, config=family.tiny_config())


def test_plan_is_for_the_size_of_a_ceiling(cli: Cli) -> None:
    code, out, err = cli("plan", "demo", "--image-tokens", "110", "--json")
    assert code == 0, err
    assert json.loads(out)["plan"]["encoder"]["grid"] == [10, 11]


def test_export_s_sizes_are_in_the_order_said() -> None:
    model = _checkpoint("qwen2_5_vl")
    unit = model.family.unit_pixels(model.config)
    assert SizeOptions(None, "36,16").sizes(model) == [(6 * unit, 6 * unit), (4 * unit, 4 * unit)]
    assert SizeOptions(["56x84"], None).sizes(model) == [(56, 84)]
    assert SizeOptions().sizes(model) == []


@pytest.mark.parametrize("name", families.built_in())
def test_towers_of_one_size_are_refused(name: str) -> None:
    if name == "fast_vlm":
        timm_stand_in.load()
    model = _checkpoint(name)
    size = model.family.image_size(model.config)
    if size is None:
        assert len(SizeOptions(None, "auto").sizes(model)) == (5 if name == "gemma4" else 3)
        return
    with pytest.raises(UsageError, match="takes pictures of one size") as caught:
        SizeOptions(None, "auto").sizes(model)
    assert f"{size[0]}x{size[1]}" in str(caught.value) and "--tiles" in str(caught.value)


def test_what_contradicts_is_refused(cli: Cli, tmp_path: Path) -> None:
    model = _checkpoint("qwen2_5_vl")
    with pytest.raises(UsageError, match="make the same size"):
        SizeOptions(None, "16,17").sizes(model)
    with pytest.raises(UsageError, match="a plan is for one size"):
        one_size(None, "16,36", model)
    words = ("export", "demo", "-o", tmp_path / "new", "--image-tokens", "16", "--image-size", "56x56")
    code, _, err = cli(*words)
    assert code == 2 and "fix: give one" in err and not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("tiles", "where", "fix"),
    [([], "--image-size", "a smaller --image-size"), (["--tiles", "2x2"], "--tiles 2x2", "ask for fewer tiles")],
)
def test_what_does_not_fit_the_context_is_named(
    cli: Cli, tmp_path: Path, tiles: list[str], where: str, fix: str
) -> None:
    """A window smaller than a picture was blamed on ``--tiles 1x1``, which nobody had said."""
    family = families.find("internvl", "test")
    config = family.tiny_config()
    side = family.image_size(config)[0] // family.unit_pixels(config)  # type: ignore[index]
    config.text_config.max_position_embeddings = side**2 * (3 if tiles else 1)
    config.save_pretrained(tmp_path / "model")
    processor = presets.find(str(tmp_path / "model")).processor
    (tmp_path / "model" / "preprocessor_config.json").write_text(json.dumps(processor))
    save_file({"none": np.zeros(1, np.float32)}, tmp_path / "model" / "model.safetensors")
    code, _, err = cli("export", tmp_path / "model", "-o", tmp_path / "bundle", "--plan", "none", *tiles, "--json")
    error = json.loads(err.splitlines()[-1])["error"]
    assert code == 2 and "does not fit the model's context" in error["what"], error
    assert (error["where"], fix in error["fix"]) == (where, True) and f"{side**2} tokens" in error["got"]
