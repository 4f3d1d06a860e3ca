"""Compression inside the loaded transformers model, for every family: plan none changes nothing, others compress."""

from __future__ import annotations

import importlib
from pathlib import Path

import family_chat
import family_harness as harness
import pytest
import torch
from family_checkpoints import quick
from family_harness import MADE_HERE, TOLERANCE, case
from slow_cases import slow_but
from test_family_answers import chat, pictures, session

from luvc_export.errors import UsageError
from luvc_export.export import families
from luvc_export.export.compression.placement import compressed

#: Whose processors give patches that are no picture's alone.
MODULES = {name: type(families.find(name, "test")).__module__ for name in MADE_HERE}
REFUSED = [
    name
    for name, module in MODULES.items()
    for own in vars(importlib.import_module(module)).values()
    if getattr(own, "__module__", "") == module and getattr(own, "padded_patches", False)
]
FAMILIES = [name for name in MADE_HERE if name not in REFUSED]


@pytest.mark.parametrize("name", slow_but(quick(), FAMILIES))
def test_generate_inside_transformers(name: str, tmp_path: Path) -> None:
    tiny = case(name)
    ours = session(tiny, tmp_path, tiny.thirds)
    request = ours.prepare(pictures(tiny, 2), messages=chat(2))
    if name == "llava_next":  # its processor never leaves a picture whole
        inputs = harness.reference(tiny, [*request.token_ids], torch.from_numpy(request.images))
    else:
        inputs = family_chat.ask(tiny, family_chat.processor(tiny), chat(2), pictures(tiny, 2))
        inputs.pop("attention_mask")
    plain = harness.reference_greedy(tiny, inputs, 6)
    with compressed(tiny.model, tiny.plan):
        assert harness.reference_greedy(tiny, inputs, 6) == plain
    expected = ours.default.run(
        request.token_ids, ours.default.encode_images(request.images), blocks=request.blocks
    ).logits[0, -1]
    with compressed(tiny.model, tiny.thirds), torch.no_grad():
        assert harness.difference(tiny.model(**inputs).logits[0, -1], expected) < TOLERANCE
    assert harness.reference_greedy(tiny, inputs, 6) == plain


@pytest.mark.parametrize("name", REFUSED)
def test_padded_patches_are_refused(name: str) -> None:
    tiny = case(name)
    with pytest.raises(UsageError, match=f"does not take the pictures of {name}"), compressed(tiny.model, tiny.plan):
        pass


def test_videos_and_other_sizes_are_refused() -> None:
    tiny = case("qwen2_vl")
    with compressed(tiny.model, tiny.thirds), pytest.raises(UsageError, match="takes no video"):
        tiny.model(input_ids=torch.tensor([[5]]), pixel_values_videos=torch.zeros(1))
    llava = case("llava")
    ids = torch.tensor([[5] + [250] * llava.plan.units])
    with (
        compressed(llava.model, llava.thirds),
        pytest.raises(UsageError, match=r"another size than the plan(.|\n)*pixel"),
    ):
        llava.model(input_ids=ids, pixel_values=torch.zeros(1, 3, 48, 48))
