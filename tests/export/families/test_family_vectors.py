"""Vectors of the task ``embed`` are transformers', under every plan those of the compressed modules; what refuses."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import family_harness as harness
import numpy as np
import pytest
import torch
import vector_bundles
from numpy.typing import NDArray
from slow_cases import slow_but
from torch_backend import TorchBackend

from luvc_export.bundle.folder import Bundle, load
from luvc_export.core import graph_io
from luvc_export.core.tasks import Embedding
from luvc_export.errors import CheckFailed, UsageError
from luvc_export.export.llm.decoder import Decoder
from luvc_export.pipeline import export_bundle, make_plan, make_plans
from luvc_export.runtime.engine.embed import Vector
from luvc_export.runtime.host.cache import HostCache
from luvc_export.runtime.model import StepResult
from luvc_export.runtime.session import Session

#: Of vectors in fp32, sums in another order.
TOLERANCE = 1e-4
TEXTS = ("a page of numbers", "x", "Which of them shows a red seven, and where?")


@pytest.fixture(scope="module")
def folders(pytestconfig: pytest.Config) -> Callable[[str], Path]:
    return lambda name: vector_bundles.kept(pytestconfig.cache.mkdir(f"vectors-{name}"), name)


@pytest.fixture(scope="module")
def opened(folders: Callable[[str], Path]) -> Any:
    """Sessions by family, back-end and plan."""
    return cache(
        lambda name, backend="cpu", plan="none": Session(
            folders(name) / "bundle", backend, plan, threads=1, arithmetic="fp32"
        )
    )


def off(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Relative L2 of the vector that is furthest off."""
    return float((np.linalg.norm(one - other, axis=-1) / np.linalg.norm(other, axis=-1)).max())


def pictures(tiny: Any) -> list[NDArray[np.uint8]]:
    """Noise, and a ramp of one colour."""
    noise = tiny.images(1)[0, 0].numpy()
    ramp = np.zeros_like(noise)
    ramp[..., 1] = np.linspace(0, 255, noise.shape[1])
    return [noise, ramp]


@pytest.mark.parametrize(
    ("name", "backend"),
    slow_but(["qwen3_vl", "qwen2_vl"], product(vector_bundles.INSTRUCTIONS, ("cpu", "openvino"))),
)
def test_vectors_are_transformers(name: str, backend: str, opened: Any) -> None:
    """Text alone, a picture alone, both, in batches of several lengths; unlike inputs have unlike vectors."""
    tiny, session = vector_bundles.tiny_of(name), opened(name, backend)
    shown = pictures(tiny)
    theirs = [vector_bundles.expected(tiny, None, text) for text in TEXTS]
    theirs += [vector_bundles.expected(tiny, picture, None) for picture in shown]
    theirs += [vector_bundles.expected(tiny, shown[0], TEXTS[0])]
    parts = session.embed(texts=TEXTS), session.embed(images=shown), session.embed(pairs=[(shown[0], TEXTS[0])])
    ours, wanted = np.concatenate(parts), np.stack(theirs)
    assert ours.dtype == np.float32 and ours.shape == wanted.shape
    assert off(ours, wanted) <= TOLERANCE
    assert np.abs(np.linalg.norm(ours, axis=-1) - 1).max() < 1e-5
    centred = ours - ours.mean(0)
    centred /= np.linalg.norm(centred, axis=-1, keepdims=True)
    alike = (centred @ centred.T - 2 * np.eye(len(ours))).max()
    other = harness.build(tiny.family, tiny.config, seed=1)
    assert min(alike, vector_bundles.expected(other, None, TEXTS[0]) @ ours[0]) <= 0.9
    assert off(ours[::-1], wanted) > 100 * TOLERANCE, "the comparison cannot fail"
    assert off(session.embed(texts=TEXTS, instruction="Another one."), wanted[:3]) > 100 * TOLERANCE
    assert off(session.embed(texts=TEXTS, batch=1), ours[:3]) <= TOLERANCE


class TorchVectors(TorchBackend):
    """The compressed modules, pooling as the bundle does."""

    def __init__(self, tiny: harness.Case, bundle: Bundle, plan: str) -> None:
        super().__init__(tiny, bundle.entry(plan).plan)
        self.states, self.decoder.pooled = (), bundle.manifest.embedding

    def decode(self, feeds: Mapping[str, Any], cache: Any) -> tuple[dict[str, Any], HostCache]:
        named = {name: torch.from_numpy(np.ascontiguousarray(feeds[name])) for name in graph_io.DECODER_INPUTS}
        named |= {name: torch.from_numpy(feeds[name]) for name in feeds if name == graph_io.VISUAL_PADDING}
        with torch.no_grad():
            vectors, _, kept = self.decoder(**named, past=())
        names = [graph_io.kept_name(layer) for layer, _, _ in self.decoder.plan.chooses]
        chosen = {name: value.numpy() for name, value in zip(names, kept, strict=True)}
        return {graph_io.VECTORS: vectors.numpy(), **chosen}, HostCache((), self._values, ())


def test_a_graph_gives_the_vectors_of_the_compressed_modules(opened: Any) -> None:
    """Of a plan that prunes in the encoder and in the LLM and freezes the last layer."""
    tiny, ours = vector_bundles.tiny_of("qwen3_vl"), opened("qwen3_vl", "cpu", "lean")
    modules = Session(ours.bundle, TorchVectors(tiny, ours.bundle, "lean"), "lean")
    shown = [(picture, TEXTS[0]) for picture in pictures(tiny)]
    vectors = ours.embed(pairs=shown)
    assert off(vectors, modules.embed(pairs=shown)) <= TOLERANCE
    assert off(vectors, opened("qwen3_vl").embed(pairs=shown)) > 100 * TOLERANCE, "the plan does nothing"


def _hidden(decoder: Decoder, run: harness.Run) -> torch.Tensor:
    """A decoder's last row behind the norm, of length 1: what its head would read."""
    with torch.no_grad():
        decoder.logits = lambda rows: decoder.norm_of(decoder.norm, rows).float()  # type: ignore[method-assign]
        rows = decoder(*run.inputs(), harness.empty_past(run_case))[0]
    return torch.nn.functional.normalize(rows[0, -1], dim=-1)


run_case = vector_bundles.tiny_of("qwen3_vl")


@pytest.mark.parametrize("name", ["none", *vector_bundles.named_plans(run_case)])
def test_every_named_plan_keeps_what_the_last_token_sees(name: str) -> None:
    """The vector is the row that an answer's first token would be read from: no row that it sees is left out.

    Its last layer makes keys and values alone of the picture. A picture that changes moves it, if the plan lets any of
    it past the first layer; changing it behind the last token moves nothing.
    """
    tiny = run_case
    plan = tiny.plan if name == "none" else vector_bundles.named_plans(tiny)[name]
    ids, vision = tiny.prompt(1), tiny.vision(plan)
    embeds, positions, _ = harness.encode_images(tiny, plan, tiny.images(1), vision)
    run = harness.lay_out(tiny, plan, ids, embeds, positions)
    pooled = tiny.family.decoder(tiny.model, plan)
    pooled.pooled = Embedding()
    with torch.no_grad():
        ours, presents, _ = pooled(*run.inputs(), ())
    wanted = _hidden(tiny.family.decoder(tiny.model, plan), run)
    assert not presents
    assert float((ours[0, -1] - wanted).norm()) <= TOLERANCE
    run.embeds = embeds.flip(1)
    assert float((_hidden(tiny.family.decoder(tiny.model, plan), run) - wanted).norm()) > 100 * TOLERANCE
    run.change["order"] = lambda order: torch.where(order < run.layout.visual_order.min(), order, -1)
    with torch.no_grad():
        blind = pooled(*run.inputs(), ())[0][0, -1]
    assert float((blind - wanted).norm()) > 100 * TOLERANCE, "a last token that does not see the picture passes"


def test_named_plans_let_the_last_layer_see_what_is_left(folders: Callable[[str], Path]) -> None:
    """Of a vector of the last token; an answer's plan, or one that says otherwise, is as it was."""
    checkpoint, size = str(folders("qwen3_vl") / "checkpoint"), vector_bundles.tiny_of("qwen3_vl").size
    plan = make_plan(checkpoint, "safe", image_size=size, task="embed")
    assert plan.llm.last_layer == "kv_only" and 0 < plan.keep[-1] <= plan.keep[-2]
    for options in ({"task": "generate"}, {"task": "embed", "last_layer": "drop"}):
        other = make_plan(checkpoint, "safe", image_size=size, **options)
        assert other.llm.last_layer == "drop" and other.keep == (*plan.keep[:-1], 0)
    budgets = make_plan(checkpoint, [24, 0], image_size=size, task="embed")
    assert budgets.llm.last_layer == "drop", "budgets are taken as they are"
    plans = make_plans(checkpoint, ["safe", "none"], image_size=size, task="embed")
    assert plans["safe"] == plan and plans["none"].llm.last_layer == "full"


def test_a_prompt_that_ends_with_a_picture_is_refused(opened: Any) -> None:
    """Its last token is a picture's, which plans drop; the template's own end is text."""
    session = opened("qwen3_vl")
    encoder = session.default.encoder
    source = encoder.template.source
    bare = source.partition("{% if add_generation_prompt")[0].replace("\n", "").replace("<|vision_end|>", "")
    try:
        object.__setattr__(encoder.template, "source", bare)
        with pytest.raises(UsageError, match="ends with a picture"):
            session.embed(images=pictures(run_case)[:1])
    finally:
        object.__setattr__(encoder.template, "source", source)
    session.embed(images=pictures(run_case)[:1])


def test_prompts_and_sizes_of_the_folder(opened: Any) -> None:
    """Its default prompt, another by name, none; vectors are cut where it names sizes, and have length 1 again."""
    session, text = opened("qwen2_vl"), [TEXTS[2]]
    whole = session.embed(texts=text)
    how = session.bundle.manifest.embedding
    assert (how.sizes, how.prompts, how.default_prompt) == ((16, 32), vector_bundles.PROMPTS, "query")
    assert np.array_equal(session.embed(texts=text, prompt="query"), whole)
    assert off(session.embed(texts=text, prompt="document"), whole) > 100 * TOLERANCE
    short = session.embed(texts=text, dimensions=16)
    assert short.shape == (1, 16) and np.allclose(short * np.linalg.norm(whole[:, :16]), whole[:, :16], atol=1e-6)
    for arguments, wrong in (
        ({"texts": text, "dimensions": 20}, "may not be cut"),
        ({"texts": text, "prompt": "qurey"}, "no such prompt"),
        ({"texts": text, "images": pictures(run_case)}, "nothing to embed"),
        ({"texts": []}, "nothing to embed"),
        ({"texts": "hello"}, "nothing to embed"),
        ({}, "nothing to embed"),
        ({"texts": ["word " * 200]}, "longer than the bundle's text capacity"),
    ):
        with pytest.raises(UsageError, match=wrong):
            session.embed(**arguments)
    with pytest.raises(UsageError, match="may not be cut"):  # whose folder names none
        opened("qwen3_vl").embed(texts=text, dimensions=16)


def test_a_vector_that_is_not_finite_is_no_vector() -> None:
    with pytest.raises(CheckFailed, match="not finite"):
        Vector().take(StepResult(None, None, np.array([1, np.nan], np.float32)))


def test_verbs_of_answers_name_the_verb(opened: Any, folders: Callable[[str], Path], demo_bundle: Bundle) -> None:
    """Whatever generates refuses a bundle that embeds, and the other way round, each with what takes it."""
    session, folder = opened("qwen3_vl"), folders("qwen3_vl") / "bundle"
    for refused in (
        lambda: session.generate(prompt="hello"),
        lambda: session.generate_batch([{"prompt": "hello"}]),
        lambda: load(folder),
    ):
        with pytest.raises(UsageError, match="another task") as info:
            refused()
        assert "luvc-export embed" in str(info.value.fix)
    with pytest.raises(UsageError, match="another task") as info:
        Session(demo_bundle).embed(texts=["hello"])
    assert "luvc-export run" in str(info.value.fix)


def test_nothing_of_decoding_is_written(folders: Callable[[str], Path]) -> None:
    """No steps, no head over the vocabulary, no cache in or out, and no weights of a head."""
    bundle = load(folders("qwen3_vl") / "bundle", task=None)
    from luvc_export.bundle.graphs import read_graph

    for entry in bundle.manifest.plans.values():
        graph = read_graph(bundle, entry.decoder)
        assert graph_io.VECTORS in graph.outputs and graph_io.LOGITS not in graph.outputs
        assert not [name for name in (*graph.inputs, *graph.outputs) if "past" in name or "present" in name]
        assert not [one.name for one in graph.outside if "lm_head" in one.name]
    assert bundle.manifest.states_of(bundle.entry()) == () and not bundle.manifest.sets
    stored = json.loads((folders("qwen3_vl") / "checkpoint" / "config.json").read_text(encoding="utf-8"))
    assert not stored["tie_word_embeddings"], "the head would be no tensor of its own"


def test_options_of_answers_are_refused(folders: Callable[[str], Path], tmp_path: Path) -> None:
    checkpoint = str(folders("qwen3_vl") / "checkpoint")
    for options in ({"debug": True}, {"video": True}, {"lora_slots": 4}):
        with pytest.raises(UsageError, match="has nothing of this"):
            export_bundle(checkpoint, tmp_path / "out", "none", image_size=run_case.size, task="embed", **options)
    with pytest.raises(UsageError, match="does not embed here"):
        export_bundle("demo", tmp_path / "out", "none", task="rerank")
