"""An exported bundle of the default plan, merging and pruning: its graphs answer as the compressed torch modules do."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import family_chat
import family_harness as harness
import numpy as np
import pytest
from family_harness import TOLERANCE, Case, build
from test_family_answers import chat, pictures
from torch_backend import TorchBackend

from luvc_export import build_engine, export_bundle
from luvc_export.bundle.folder import Bundle, load
from luvc_export.core import graph_io
from luvc_export.core.plan import Plan
from luvc_export.export import families
from luvc_export.runtime.session import Session
from luvc_export.runtime.state import Step

FAMILIES = families.built_in()


@cache
def small(name: str) -> Case:
    """The tiny model with as few layers as show merges on both axes, a prune and a drop: tracing takes time by each.

    DeepStack keeps the plane from before the merge, which is pruned before the first layer and added after it.
    """
    family = families.find(name, "test")
    config = family.tiny_config()
    text = config.get_text_config()
    text.num_hidden_layers = 2
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:2]
    if hasattr(config.vision_config, "deepstack_visual_indexes"):
        config.vision_config.depth, config.vision_config.deepstack_visual_indexes = 2, [0]
    made = build(family, config)
    return replace(made, thirds=_once(made.thirds))


def _once(plan: Plan) -> Plan:
    """One pass of merging, in the last block that has one, and one prune, before the first of two layers."""
    rows, columns = plan.grid
    merged = replace(plan.merges[-1], rows=1, columns=1)
    return replace(plan, merges=(merged,), keep=((rows - 1) * (columns - 1) // 2, 0))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Bundles by family, each exported once."""

    @cache
    def export(name: str) -> Bundle:
        tiny, folder = small(name), tmp_path_factory.mktemp(name)
        made = str(family_chat.save(tiny, folder / "checkpoint"))
        return export_bundle(made, folder / "bundle", {"thirds": tiny.thirds}, image_size=tiny.size, text_capacity=256)

    return export


def _same(ours: Session, torch_: Session, ids: list[int], images: Any, before: tuple[Any, Any] = (None, None)) -> Any:
    """Run both; logits, caches and kept tokens must agree. Return both states."""
    steps: list[Step] = []
    for session, state in zip((ours, torch_), before, strict=True):
        steps.append(
            session.run(ids, session.encode_images(images) if images is not None else None, state, all_logits=True)
        )
    found, expected = steps
    assert harness.difference(found.logits, expected.logits) < TOLERANCE
    assert expected.logits.std() >= 1
    assert {*found.kept} == {*expected.kept}
    for layer, kept in expected.kept.items():
        assert np.array_equal(found.kept[layer], kept)
    for mine, theirs in zip(found.state.cache.values, expected.state.cache.values, strict=True):
        assert np.allclose(mine.numpy(), theirs.numpy(), atol=TOLERANCE, rtol=0)
    return found.state, expected.state


@pytest.mark.parametrize("name", FAMILIES)
def test_onnx_equals_compressed_torch(name: str, exported: Any) -> None:
    """Vision; then prefill of two images, of text alone, and a decode step, all from one decoder graph; then a chat."""
    tiny = small(name)
    bundle = exported(name)
    plan, images = tiny.thirds, tiny.images(2)
    assert plan.merges
    assert plan.vision_tokens < plan.units
    assert [keep for _, _, keep in plan.prunes if keep]
    ours, torch_ = Session(bundle, threads=1), Session(bundle, TorchBackend(tiny, plan))
    found, expected = ours.encode_images(images.numpy()), torch_.encode_images(images.numpy())
    assert harness.difference(found.embeds, expected.embeds) < TOLERANCE
    assert harness.difference(found.positions, expected.positions) < TOLERANCE
    assert np.array_equal(found.merged_into, expected.merged_into)
    states = _same(ours, torch_, tiny.prompt(2), images.numpy())
    _same(ours, torch_, [5], None, states)
    _same(ours, torch_, tiny.prompt(0), None)
    answers = [one.generate(pictures(tiny, 2), messages=chat(2), max_new_tokens=8) for one in (ours, torch_)]
    assert answers[0].token_ids == answers[1].token_ids
    assert answers[0].visual_tokens == answers[1].visual_tokens == tuple(2 * keep for keep in plan.keep)


@pytest.mark.parametrize("name", FAMILIES)
def test_openvino_answers_as_onnx_runtime(name: str, exported: Any) -> None:
    """fp32: vision, prefill of two images, decode, text alone and a chat, from the same files."""
    pytest.importorskip("openvino", reason="pip install 'luvc-export[openvino]'")
    tiny, bundle = small(name), exported(name)
    ours, theirs = (Session(bundle, backend, threads=1, arithmetic="fp32") for backend in ("openvino", "cpu"))
    images = tiny.images(2).numpy()
    found, expected = ours.encode_images(images), theirs.encode_images(images)
    assert harness.difference(found.embeds, expected.embeds) < TOLERANCE
    assert np.array_equal(found.merged_into, expected.merged_into)
    before: list[Any] = [None, None]
    for ids, seen in ((tiny.prompt(2), True), ([5], False)):
        steps = [
            one.run(ids, one.encode_images(images) if seen else None, state, all_logits=True)
            for one, state in zip((ours, theirs), before, strict=True)
        ]
        assert harness.difference(steps[0].logits, steps[1].logits) < TOLERANCE
        for layer, kept in steps[1].kept.items():
            assert np.array_equal(steps[0].kept[layer], kept)
        before = [step.state for step in steps]
    for count in (0, 2):
        said = [one.generate(pictures(tiny, count), messages=chat(count), max_new_tokens=8) for one in (ours, theirs)]
        assert said[0].token_ids == said[1].token_ids


@pytest.mark.parametrize("name", FAMILIES)
def test_graphs_pass_lint_and_build_without_a_gpu(name: str, exported: Any) -> None:
    pytest.importorskip("tensorrt_rtx", reason="pip install 'luvc-export[rtx]'")
    bundle = exported(name)
    build_engine(bundle.folder, "rtx-ada", "thirds", precision="fp16")
    entry = load(bundle.folder).engine("thirds", "rtx-ada")
    assert {item.name for item in entry.vision.inputs} == {graph_io.IMAGE}
    assert {*graph_io.past_names(small(name).thirds.layers)} <= {item.name for item in entry.decoder.inputs}
