"""A family's checkpoints read alike in the forms that repositories were published in."""

from __future__ import annotations

import json
import types
from pathlib import Path
from typing import Any

import family_checkpoints
import pytest
from family_harness import MADE_HERE, case
from family_published import PLACES, SOURCES, old_config, save

from luvc_export.errors import CheckpointError
from luvc_export.export import families, weights
from luvc_export.export.checkpoint import Checkpoint, open_checkpoint
from luvc_export.export.processor import picture_settings
from luvc_export.runtime.prompt.template import load_template

FAMILIES = [name for name in MADE_HERE if name in SOURCES]
ORDER = list(PLACES)


@pytest.fixture(scope="module", params=FAMILIES)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A family's tiny checkpoint in the old and in the new form."""
    index = FAMILIES.index(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    tiny = case(request.param)
    return {form: save(tiny, folder / form, form, ORDER[(index + at) % 4]) for at, form in enumerate(("old", "new"))}


def facts(checkpoint: Checkpoint) -> dict[str, Any]:
    family, config = checkpoint.family, checkpoint.config
    text = config.get_text_config()
    return {
        "decoder": family.decoder_shape(config),
        "encoder": family.encoder_shape(config),
        "unit": family.unit_pixels(config),
        "size": family.image_size(config),
        "image token": family.image_token_id(config),
        "rope": {key: value for key, value in text.rope_parameters.items() if key != "type"},
        "layers": getattr(text, "layer_types", None),
        "pictures": picture_settings(checkpoint),
        "tensors": {name: (tensor.dtype, tensor.shape) for name, tensor in checkpoint.tensors.items()},
    }


def test_every_family_has_a_test_checkpoint() -> None:
    assert family_checkpoints.names() == families.built_in()


def test_old_and_new_forms_mean_the_same(both: dict[str, Path]) -> None:
    old, new = (open_checkpoint(str(both[form])) for form in ("old", "new"))
    raw = [json.loads((both[form] / "config.json").read_text(encoding="utf-8")) for form in ("old", "new")]
    assert raw[0] != raw[1] and "torch_dtype" in raw[0] and "dtype" in raw[1] and "rope_parameters" not in str(raw[0])
    assert facts(old) == facts(new)
    rope = facts(new)["rope"]
    assert rope and rope == case(str(new.family.model_type)).config.get_text_config().rope_parameters


def test_every_tensor_is_found_in_shards(both: dict[str, Path]) -> None:
    for folder in both.values():
        checkpoint = open_checkpoint(str(folder))
        assert len({tensor.file for tensor in checkpoint.tensors.values()}) > 1
        skeleton = weights.skeleton(checkpoint, "bf16")
        wanted = dict(skeleton.model.named_parameters())
        assert set(wanted) <= {*weights.stored(skeleton.model, checkpoint), "lm_head.weight"}


def test_a_template_is_found_where_it_stands(both: dict[str, Path]) -> None:
    """A bundle takes the same files as they are."""
    for folder in both.values():
        files = dict.fromkeys(path.name for path in folder.iterdir())
        bundle: Any = types.SimpleNamespace(
            folder=folder,
            manifest=types.SimpleNamespace(files=files),
            path=lambda name, at=folder: at / name,
            read=lambda name, at=folder: (at / name).read_bytes(),
        )
        template = load_template(bundle)
        assert template is not None
        name = open_checkpoint(str(folder)).family.model_type
        shown = template.render([{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "hi"}]}])
        assert family_checkpoints.find(name).picture in shown and shown.endswith("<assistant>\n")


@pytest.mark.parametrize("name", FAMILIES)
def test_a_form_that_is_misread_would_show(name: str, tmp_path: Path) -> None:
    """Another rotary base in the old form's own field is another model."""
    config = old_config(json.loads(json.dumps(case(name).config.to_dict(), default=str)))
    place = config if "rope_theta" in config else config["text_config"]
    place["rope_theta"] = 77.0
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    read = open_checkpoint(str(tmp_path), weights=False).config.get_text_config().rope_parameters
    assert 77.0 in [read.get("rope_theta"), *(v.get("rope_theta") for v in read.values() if isinstance(v, dict))]


def test_pickled_weights_alone_are_refused(tmp_path: Path) -> None:
    case("llava").config.save_pretrained(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="only pickled weights"):
        open_checkpoint(str(tmp_path))
