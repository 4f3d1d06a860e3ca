from __future__ import annotations

import json

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2VLImageProcessorPil

from luvc_export import compressed, load_bundle, make_plan
from luvc_export.bundle.folder import Bundle
from luvc_export.demo import CHECKPOINT, IMAGE_SIZE
from luvc_export.demo.questions import cases
from luvc_export.errors import UsageError
from luvc_export.export.compression.placement import CACHE

UNITS = IMAGE_SIZE[0] * IMAGE_SIZE[1] // 28**2
IMAGE_TOKEN = json.loads((CHECKPOINT / "config.json").read_text())["image_token_id"]


@pytest.fixture(scope="module")
def model() -> Qwen2_5_VLForConditionalGeneration:
    return Qwen2_5_VLForConditionalGeneration.from_pretrained(CHECKPOINT, dtype=torch.float32).eval()


def ask(prompt: str, picture: Image.Image) -> dict[str, torch.Tensor]:
    settings = json.loads((CHECKPOINT / "preprocessor_config.json").read_text())
    settings.pop("image_processor_type")
    vision = Qwen2VLImageProcessorPil(**settings)(picture, return_tensors="pt")
    text = f"<|im_start|>user\n<|vision_start|>{'<|image_pad|>' * UNITS}<|vision_end|>{prompt}<|im_end|>\n"
    text += "<|im_start|>assistant\n"
    ids = torch.tensor([Tokenizer.from_file(str(CHECKPOINT / "tokenizer.json")).encode(text).ids])
    return {"input_ids": ids, "mm_token_type_ids": (ids == IMAGE_TOKEN).int(), **vision}


def generate(model: Qwen2_5_VLForConditionalGeneration, inputs: dict[str, torch.Tensor]) -> list[int]:
    out = model.generate(**inputs, max_new_tokens=6, min_new_tokens=6, do_sample=False, pad_token_id=0)
    return [int(token) for token in out[0, inputs["input_ids"].shape[1] :]]


def test_without_pruning_generate_is_unchanged_and_with_it_equals_the_bundle(
    model: Qwen2_5_VLForConditionalGeneration, demo_bundle: Bundle
) -> None:
    session = load_bundle(demo_bundle.folder, "cpu", plan="thirds")
    for case in cases("heldout", 3):
        inputs = ask(case.prompt, Image.fromarray(case.images[0]))
        plain = generate(model, inputs)
        with compressed(model, make_plan(str(CHECKPOINT), "none", image_size=IMAGE_SIZE)):
            assert generate(model, inputs) == plain
        with compressed(model, make_plan(str(CHECKPOINT), "thirds", image_size=IMAGE_SIZE)), torch.no_grad():
            logits = model(**inputs).logits[0, -1]
        request = session.prepare(case.images[0], case.prompt)
        step = session.default.run(request.token_ids, session.default.encode_images(request.images))
        torch.testing.assert_close(torch.from_numpy(step.logits[0, -1]), logits, atol=1e-4, rtol=0)


def test_caches_are_taken_under_both_names_that_transformers_has(
    model: Qwen2_5_VLForConditionalGeneration, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Since 5.24 it hands them on as ``cache``, which was swallowed: every answer went on without its picture."""
    case = next(iter(cases("heldout", 1)))
    plan = make_plan(str(CHECKPOINT), "thirds", image_size=IMAGE_SIZE)
    with compressed(model, plan), torch.no_grad():
        first = model(**ask(case.prompt, Image.fromarray(case.images[0])))
        state, token = getattr(first, CACHE), first.logits[:, -1].argmax(-1, keepdim=True)
        monkeypatch.delattr("luvc_export.export.llm.choice.choose")  # text alone has nothing to choose from
        old = model(input_ids=token, past_key_values=state).logits
        new = model(input_ids=token, cache=state).logits
        alone = model(input_ids=token).logits
    assert torch.equal(old, new) and not torch.allclose(old, alone)


def test_a_model_on_several_devices_is_refused(
    model: Qwen2_5_VLForConditionalGeneration, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "hf_device_map", {"model.visual": 0, "lm_head": "cpu"}, raising=False)
    plan = make_plan(str(CHECKPOINT), "thirds", image_size=IMAGE_SIZE)
    with pytest.raises(UsageError, match=r"a model on one device(.|\n)*got: layers on 0, cpu"), compressed(model, plan):
        pass


def test_the_model_is_restored_after_an_error(model: Qwen2_5_VLForConditionalGeneration) -> None:
    plan = make_plan(str(CHECKPOINT), "thirds", image_size=IMAGE_SIZE)
    inputs = ask("where is 7?", Image.new("RGB", (252, 280)))
    with pytest.raises(UsageError, match="image_grid_thw"), compressed(model, plan):
        model(**inputs)
    assert "forward" not in model.__dict__
    with pytest.raises(KeyboardInterrupt), compressed(model, plan):
        raise KeyboardInterrupt
    assert "forward" not in model.__dict__


def test_two_prompts_at_once_are_refused(model: Qwen2_5_VLForConditionalGeneration) -> None:
    plan = make_plan(str(CHECKPOINT), "none", image_size=IMAGE_SIZE)
    with pytest.raises(UsageError, match="one prompt at a time"), compressed(model, plan):
        model(input_ids=torch.zeros(2, 3, dtype=torch.int64))
