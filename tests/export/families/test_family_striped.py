"""``striped`` in a family: layers that work, carry and see no picture, as transformers has them, torch and graphs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import family_chat
import family_harness as harness
import numpy as np
import pytest
import torch
from family_harness import SABOTAGE, TOLERANCE, Case, case
from flat_plans import flat_request
from torch import Tensor

from luvc_export import build_engine
from luvc_export.bundle.folder import Bundle, load
from luvc_export.core.plan import Plan
from luvc_export.core.plan.stripes import Stripes
from luvc_export.core.planning import solve
from luvc_export.export import families
from luvc_export.pipeline import export_bundle, make_plans
from luvc_export.runtime.session import Session

FAMILY, LAYERS = "qwen2_5_vl", 6
#: Layers without keys, windows, caches that others read, planes of DeepStack, a prompt that sees itself both ways.
ODD = ("qwen3_5", "lfm2_vl", "gemma3", "gemma4", "qwen3_vl", "paligemma")
#: Layer 0 has all, 1 and 3 carry, 2 and 4 work, the last sees no picture.
STRIPES = Stripes(Fraction(1, LAYERS), 0.5, first=0, every=2, gone=Fraction(LAYERS - 1, LAYERS), works=Fraction(0))
#: In layers that carry every third of the 12 tokens that are left goes through, beginning with this one by layer: the
#: next such layer has the next turn, however many layers lie between.
TURNS, BEGINS = 3, {1: 1, 3: 2}


def striped(tiny: Case, stripes: Stripes = STRIPES, turns: int | None = TURNS) -> Plan:
    shapes = tiny.family.decoder_shape(tiny.config), tiny.family.encoder_shape(tiny.config)
    plan = solve(flat_request("striped", stripes=stripes, turns=turns), tiny.plan.grid, *shapes)
    return replace(plan, encoder=tiny.plan.encoder) if plan.encoder.grid != tiny.plan.encoder.grid else plan


@pytest.fixture(scope="module")
def tiny() -> Case:
    family = families.find(FAMILY, "test")
    config = family.tiny_config()
    config.text_config.num_hidden_layers = LAYERS
    config.text_config.layer_types = ["full_attention"] * LAYERS
    return harness.build(family, config)


@contextmanager
def as_planned(tiny: Case, plan: Plan, visual: Tensor, kept: Tensor, begins: dict[int, int]) -> Iterator[None]:
    """In transformers' own layers, visual rows (bool [S]) that left are seen by none, those carried move alike."""
    layers: Any = tiny.family.decoder(tiny.model, tiny.plan).layers

    def hide(gone: Tensor) -> Any:
        def before(layer: Any, args: Any, kwargs: Any) -> Any:
            size = len(gone)
            mask = torch.zeros(1, 1, size, size).masked_fill(~torch.ones(size, size, dtype=torch.bool).tril(), -1e30)
            return args, {**kwargs, "attention_mask": mask.masked_fill(gone[None, None, None], -1e30)}

        return before

    def carry(number: int, layer: Any, args: Any, kwargs: Any, out: Any) -> Any:
        entered, left = args[0] if args else kwargs["hidden_states"], out[0] if isinstance(out, tuple) else out
        rows = torch.where(visual[None, :, None], entered, left)
        if plan.llm.turns:
            work = kept.nonzero()[begins.get(number, 0) :: TURNS, 0]
            apart = entered[0] - entered[0, work].mean(0)
            alike = torch.cosine_similarity(apart[visual, None], apart[None, work], 2)
            rows[0, visual] += (alike / 0.15).softmax(1) @ (left - entered)[0, work]
            rows[0, work] = left[0, work]
        return (rows, *out[1:]) if isinstance(out, tuple) else rows

    hooks = []
    for number, count in enumerate(plan.keep):
        if count < plan.vision_tokens:
            gone = visual & ~kept if count else visual
            hooks.append(layers[number].register_forward_pre_hook(hide(gone), with_kwargs=True))
        if number in plan.llm.kv_only:
            hooks.append(layers[number].register_forward_hook(partial(carry, number), with_kwargs=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def ours(tiny: Case, plan: Plan, ids: list[int], images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of the text, and places of the kept tokens of the first picture."""
    run = harness.lay_out(tiny, plan, ids, *harness.encode_images(tiny, plan, images)[:2])
    with torch.no_grad():
        out, _, kept = tiny.family.decoder(tiny.model, plan)(*run.inputs(), harness.empty_past(tiny))
    known = torch.from_numpy(run.layout.input_ids[0]) < tiny.family.decoder_shape(tiny.config).vocab
    return out[0][known], kept[0][0, 0]


def theirs(
    tiny: Case, plan: Plan, ids: list[int], images: Tensor, places: Tensor, begins: dict[int, int] = BEGINS
) -> Tensor:
    inputs = harness.reference(tiny, ids, images)
    visual = inputs["input_ids"][0] == tiny.family.image_token_id(tiny.config)
    kept = torch.zeros_like(visual)
    kept[visual.nonzero()[places, 0]] = True
    with as_planned(tiny, plan, visual, kept, begins):
        return harness.reference_logits(tiny, inputs)


def test_the_stripes_are_what_the_plan_says(tiny: Case) -> None:
    plan = striped(tiny)
    assert plan.keep == (24, 12, 12, 12, 12, 0) and (plan.llm.kv_only, plan.llm.turns) == ((1, 3), TURNS)


def test_logits_are_those_of_transformers_layers(tiny: Case) -> None:
    plan, ids, images = striped(tiny), tiny.prompt(1), tiny.images(1)
    logits, places = ours(tiny, plan, ids, images)
    expected = theirs(tiny, plan, ids, images, places)
    assert len(places) == 12 and expected.std() >= 1
    assert harness.difference(logits, expected) < TOLERANCE
    for other in (replace(STRIPES, every=1), replace(STRIPES, gone=Fraction(3, LAYERS)), replace(STRIPES, first=1)):
        moved = theirs(tiny, striped(tiny, other, TURNS if other.every != 1 else None), ids, images, places)
        assert harness.difference(logits, moved) > SABOTAGE, other
    assert harness.difference(logits, theirs(tiny, striped(tiny, turns=0), ids, images, places)) > SABOTAGE
    for begins in ({1: 1, 3: 0}, {1: 0, 3: 2}):  # by the layer's number, and from the first token on
        assert harness.difference(logits, theirs(tiny, plan, ids, images, places, begins)) > SABOTAGE, begins


@pytest.mark.parametrize("name", ODD)
def test_families_have_stripes(name: str) -> None:
    """Decoding one by one says what prefill of a longer prompt says, with the caches that the plan foretells."""
    tiny = case(name)
    layers = tiny.plan.layers
    plan = striped(
        tiny, Stripes(Fraction(1, layers), 1.0, first=0, every=2, gone=Fraction(layers - 1, layers), works=Fraction(0))
    )
    ids, images, forced = tiny.prompt(1), tiny.images(1), [5, 17]
    assert plan.keep[-1] == 0 and set(plan.llm.kv_only).isdisjoint(tiny.family.decoder_shape(tiny.config).keyless)
    decoder, shown = tiny.family.decoder(tiny.model, plan), harness.encode_images(tiny, plan, images)[:2]
    run = harness.lay_out(tiny, plan, ids, *shown)
    with torch.no_grad():
        _, past, _ = decoder(*run.inputs(), harness.empty_past(tiny))
        rows = harness.cached_rows(tiny, past)
        assert rows == {layer: plan.cache_rows(1, run.layout.input_ids.shape[1])[layer] for layer in rows}
        steps = []
        for step, token in enumerate(forced):
            seen = run.layout.input_ids.shape[1] + step + 1
            logits, past, _ = decoder(*harness.next_inputs(run, decoder, token, seen), past)
            steps.append(logits[0])
    if not tiny.family.prefix(tiny.config):  # whose prompt sees itself both ways
        whole = harness.logits(tiny, decoder, harness.lay_out(tiny, plan, ids + forced, *shown))
        assert harness.difference(torch.cat(steps), whole[-len(forced) :]) < TOLERANCE


@pytest.fixture(scope="module")
def bundle(tiny: Case, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("striped")
    checkpoint = str(family_chat.save(tiny, folder / "checkpoint"))
    plans = make_plans(checkpoint, ["striped"], image_size=tiny.size, stripes=STRIPES, turns=TURNS)  # fuses in fp16
    export_bundle(checkpoint, folder / "bundle", plans, image_size=tiny.size, text_capacity=64)
    return load(folder / "bundle")


@pytest.mark.slow(beside="export/families/test_family_striped.py::test_logits_are_those_of_transformers_layers")
@pytest.mark.parametrize("backend", ["cpu", "openvino"])
def test_graphs_say_what_torch_says(tiny: Case, bundle: Bundle, backend: str) -> None:
    if backend == "openvino":
        pytest.importorskip("openvino", reason="pip install 'luvc-export[openvino]'")
    plan, ids, images = bundle.entry("striped").plan, tiny.prompt(1), tiny.images(1)
    assert (plan.keep, plan.llm.kv_only) == (striped(tiny).keep, (1, 3))
    expected, places = ours(tiny, plan, ids, images)
    session = Session(bundle, backend=backend, threads=1, arithmetic="auto" if backend == "cpu" else "fp32")
    seen = session.default.run(ids, session.default.encode_images(images.numpy()), all_logits=True)
    assert harness.difference(np.asarray(seen.logits[0]), expected) < TOLERANCE
    assert seen.kept[1][0].tolist() == places.tolist()


@pytest.mark.slow(beside="engines/test_build_bundle.py::test_the_entry_describes_the_engines")
def test_an_engine_is_built_of_it(bundle: Bundle) -> None:
    pytest.importorskip("tensorrt_rtx", reason="pip install 'luvc-export[rtx]' to build engines")
    build_engine(bundle.folder, "rtx-ada", "striped", precision="fp16")
    built: Path = load(bundle.folder, full=True).folder
    assert load(built).engine("striped", "rtx-ada").backend == "tensorrt_rtx"
