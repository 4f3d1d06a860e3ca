"""What a family refuses, and what the error says."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import family_harness as harness
import pytest
import torch
from family_harness import MADE_HERE, Case, build, case
from flat_plans import flat_plan

from luvc_export.core.shapes import PLACE
from luvc_export.errors import CheckpointError, PlanError
from luvc_export.export import families

FAMILIES = MADE_HERE
FOUND = {name: families.find(name, "test") for name in FAMILIES}
FIXED = [name for name, family in FOUND.items() if family.image_size(family.tiny_config())]


def _changed(tiny: Case, **changes: Any) -> Any:
    """The model with another config; ``text__x`` and ``vision__x`` reach into its halves."""
    config = deepcopy(tiny.config)
    for name, value in changes.items():
        *half, field = name.split("__")
        setattr(getattr(config, f"{half[0]}_config") if half else config, field, value)
    model = deepcopy(tiny.model)
    model.config = model.model.config = config
    return model


def test_a_model_type_transformers_has_and_we_do_not() -> None:
    with pytest.raises(CheckpointError) as caught:
        families.find("aya_vision", "config.json")
    text = str(caught.value)
    assert "no family for this model type" in text
    assert "'aya_vision'" in text
    assert "docs/adding-a-family.md" in text
    assert all(name in text for name in FAMILIES)


def test_did_you_mean() -> None:
    with pytest.raises(CheckpointError, match="did you mean 'qwen2_5_vl'"):
        families.find("qwen2_5vl", "config.json")


@pytest.mark.parametrize("name", FIXED)
def test_another_image_size_is_refused_where_positions_are_learned(name: str) -> None:
    tiny = case(name)
    rows, columns = tiny.plan.grid
    other = flat_plan((rows, columns + 1), (rows * (columns + 1),) * tiny.plan.layers, last_layer="full")
    with pytest.raises(PlanError, match="takes one image size only"):
        tiny.vision(other)


@pytest.mark.parametrize("name", sorted({*FAMILIES} - {*FIXED}))
def test_other_image_sizes_run_where_positions_are_computed(name: str) -> None:
    tiny = case(name)
    unit = tiny.family.unit_pixels(tiny.config)
    image = torch.zeros(1, 1, 3 * unit, 5 * unit, 3, dtype=torch.uint8)
    plan = flat_plan((3, 5), (15,) * tiny.plan.layers, last_layer="full")
    assert harness.encode_images(tiny, plan, image)[0].shape[1] == 15


@pytest.mark.parametrize("name", ["llava", "internvl", "idefics3", "llava_onevision"])
def test_an_unknown_text_model(name: str) -> None:
    tiny = case(name)
    model = _changed(tiny, text__model_type="gpt2")
    with pytest.raises(CheckpointError, match=r"'gpt2'(.|\n)*one of llama, mistral, qwen2, qwen3"):
        tiny.family.decoder(model, tiny.plan)


def test_rope_that_changes_with_length() -> None:
    tiny = case("llava")
    model = _changed(tiny, text__rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0})
    with pytest.raises(
        CheckpointError, match=r"known to be the same at every length of the prompt(.|\n)*got: 'dynamic'"
    ):
        tiny.family.decoder(model, tiny.plan)


@pytest.mark.parametrize(
    ("name", "changes", "refusal"),
    [
        ("llava", {"vision_feature_select_strategy": "full"}, "'full' with a clip_vision_model"),
        ("llava", {"vision__model_type": "pixtral"}, "no encoder for this vision tower"),
        ("llava", {"vision_feature_layer": -5}, "none of the tower's blocks"),
        ("mistral3", {"vision__model_type": "siglip_vision_model"}, "tower inside mistral3(.|\n)*expected: pixtral"),
        ("mistral3", {"vision_feature_layer": -4}, "none of the tower's blocks(.|\n)*-1 to -3"),
        ("mistral3", {"vision_feature_layer": [-1, -2]}, "none of the tower's blocks"),
        ("internvl", {"vision_feature_layer": -2}, "this InternVL tower is not supported"),
    ],
)
def test_towers_that_are_refused(name: str, changes: dict[str, Any], refusal: str) -> None:
    tiny = case(name)
    with pytest.raises(CheckpointError, match=refusal):
        tiny.family.vision(_changed(tiny, **changes), tiny.plan, tiny.normalise())


@pytest.mark.parametrize("field", ["attn_logit_softcapping", "final_logit_softcapping", "use_bidirectional_attention"])
def test_gemma_text_models_that_are_refused(field: str) -> None:
    tiny = case("gemma3")
    with pytest.raises(CheckpointError, match="this Gemma text model is not supported"):
        tiny.family.decoder(_changed(tiny, **{f"text__{field}": 30.0 if "cap" in field else True}), tiny.plan)


def test_layers_that_slide_keep_the_places_of_their_keys() -> None:
    tiny = case("gemma3")
    config = deepcopy(tiny.config)
    config.text_config.max_position_embeddings, config.text_config.sliding_window = 2048, 512
    shape = tiny.family.decoder_shape(config)
    assert shape.context == 2048 and [(state.layer, state.name) for state in shape.states] == [(0, PLACE), (2, PLACE)]
    config.text_config.layer_types = ["full_attention"] * 3
    shape = tiny.family.decoder_shape(config)
    assert (shape.context, shape.states) == (2048, ())


def test_llava_on_a_siglip_tower_and_mistral() -> None:
    """Other halves than the tiny config's run through the same family."""
    tiny = case("llava")
    config = deepcopy(tiny.config)
    values = config.to_dict()
    values["vision_config"] = dict(case("llava_onevision").config.vision_config.to_dict(), image_size=60)
    values["text_config"]["model_type"] = "mistral"
    values |= {"vision_feature_select_strategy": "full", "vision_feature_layer": -1}
    other = build(tiny.family, type(config)(**values))
    images = other.images(1)
    inputs = harness.reference(other, other.prompt(1), images)
    embeds, positions, _ = harness.encode_images(other, other.plan, images)
    run = harness.lay_out(other, other.plan, other.prompt(1), embeds, positions)
    logits = harness.logits(other, other.family.decoder(other.model, other.plan), run)
    assert harness.difference(logits, harness.reference_logits(other, inputs)) < harness.TOLERANCE


@pytest.mark.parametrize(("score", "behind"), [("keynorm", 0), ("dart", 0), ("pyramiddrop", 0), ("fastv", 1)])
@pytest.mark.parametrize("name", ["lfm2_vl", "qwen3_5"])
def test_scores_of_keys_of_a_layer_that_has_none(name: str, score: str, behind: int) -> None:
    """``fastv`` reads the layer before the prune."""
    tiny = case(name)
    count, shape = tiny.plan.units, tiny.family.decoder_shape(tiny.config)
    states = {state.layer for state in shape.states if not state.in_cache}
    layer = next(layer for layer in range(1, shape.layers) if layer - behind in states)
    budgets = tuple(count if at < layer else 4 for at in range(shape.layers))
    plan = flat_plan(tiny.plan.grid, budgets, last_layer="full", score=score)
    run = harness.lay_out(tiny, plan, tiny.prompt(1), *harness.encode_images(tiny, plan, tiny.images(1))[:2])
    with pytest.raises(PlanError, match=r"the layer has none(.|\n)*--score(.|\n)*residual"), torch.no_grad():
        tiny.family.decoder(tiny.model, plan)(*run.inputs(), harness.empty_past(tiny))
