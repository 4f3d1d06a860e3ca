"""An exported bundle of the default plan, merging and pruning: its graphs answer as the compressed torch modules do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import family_checkpoints
import family_harness as harness
import numpy as np
import onnx
import pytest
from family_harness import MADE_HERE, TOLERANCE
from family_questions import exportable, few, questions, scenery
from slow_cases import slow_but
from test_family_answers import chat, pictures
from torch_backend import TorchBackend

from luvc_export import build_engine
from luvc_export.bundle.folder import load
from luvc_export.calibration.parity.run import open_pair, parity
from luvc_export.calibration.quantise.calibrate import calibrate
from luvc_export.calibration.quantise.recipe import Recipe
from luvc_export.core import graph_io
from luvc_export.core.precision import find
from luvc_export.export import decomposition, families
from luvc_export.pipeline import prepare_build
from luvc_export.runtime.host.windows import Windows
from luvc_export.runtime.session import Session
from luvc_export.runtime.state import Step

#: Whose graphs another family has (a test below): SmolVLM's are Idefics3's, of odder units.
ALIKE = {"idefics3": "smolvlm", "llava_next": "llava_onevision"}
#: Exported with other plans by test_family_vocabulary.py and test_family_plans.py, or of parts that others' graphs have
#: (a tower of theirs, a plain decoder); with the default plan in make slow.
ELSEWHERE = tuple(name for name in MADE_HERE if not family_checkpoints.find(name).quick)
FAMILIES = tuple(name for name in MADE_HERE if name not in (*ALIKE, *ELSEWHERE))
#: Whose wide pictures are cut to tiles; the second also ends the rows of the whole one.
CUT = ("internvl", "llava_onevision")
#: Built: a layer of each attention and another norm; states, in make slow. The others are parsed.
BUILT = ("gemma3", "lfm2_vl")
#: Whose bundles calibration reads otherwise: convolutions, shared caches, states of two kinds, prefixes, planes.
CALIBRATED = tuple(
    name for name in ("fast_vlm", "gemma4", "lfm2_vl", "paligemma", "qwen3_5", "qwen3_vl") if name in FAMILIES
)
#: Run by OpenVINO too: convolutions, shared caches, states of two kinds, prefixes, windows; heads that turn in pairs,
#: places of units as sines; those that cut pictures.
ON_OPENVINO = tuple(name for name in FAMILIES if family_checkpoints.find(name).on_openvino)
#: Whose towers neither merge nor prune.
WHOLE = [name for name in MADE_HERE if not (own := families.find(name, "test")).encoder_shape(own.tiny_config()).blocks]


@pytest.fixture(scope="module", autouse=True)
def _node_by_node() -> Iterator[None]:
    """No family's default plan has an operator that makes the exporter trace it twice more."""
    asked = decomposition.substitutable

    def substitutable(program: Any, table: Any) -> bool:
        assert asked(program, table), "a module has an operator that export/decomposition.py does not know"
        return True

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decomposition, "substitutable", substitutable)
        yield


@pytest.fixture(scope="module")
def on_cpu(bundles: Any) -> Any:
    """Sessions on ONNX Runtime by family, each opened once; rows that leave a window stay, as in torch."""

    @cache
    def open_(name: str) -> Session:
        session = Session(bundles(name), "cpu", threads=1, arithmetic="fp32")
        session.default.graphs.windows = Windows((), session.default.plan)
        return session

    return open_


def _same(ours: Session, torch_: Session, ids: list[int], images: Any, before: tuple[Any, Any] = (None, None)) -> Any:
    """Run both; logits, caches and kept tokens must agree. Return both states."""
    steps: list[Step] = []
    for session, state in zip((ours, torch_), before, strict=True):
        steps.append(
            session.default.run(
                ids, session.default.encode_images(images) if images is not None else None, state, all_logits=True
            )
        )
    first, expected = steps
    assert harness.difference(first.logits, expected.logits) < TOLERANCE
    assert expected.logits.std() >= 1
    assert {*first.kept} == {*expected.kept}
    for layer, kept in expected.kept.items():
        assert np.array_equal(first.kept[layer], kept)
    for mine, theirs in zip(first.state.cache.values, expected.state.cache.values, strict=True):
        assert np.allclose(mine.numpy(), theirs.numpy(), atol=TOLERANCE, rtol=0)
    return first.state, expected.state


@pytest.mark.parametrize("name", FAMILIES)
def test_onnx_equals_compressed_torch(name: str, bundles: Any, on_cpu: Any) -> None:
    """Vision; then prefill of two images, of text alone, and a decode step, all from one decoder graph; then a chat."""
    tiny = exportable(name)
    bundle = bundles(name)
    plan, images = tiny.thirds, tiny.images(2)
    assert plan.encoder.merges or name in WHOLE
    assert bundle.manifest.prompt.tiling == "best_resolution", "without tiles: a rule that every version knows"
    assert plan.vision_tokens < plan.units or name in WHOLE
    assert [keep for _, _, keep in plan.prunes if keep]
    ours, torch_ = on_cpu(name), Session(bundle, TorchBackend(tiny, plan))
    encoded, expected = ours.default.encode_images(images.numpy()), torch_.default.encode_images(images.numpy())
    assert harness.difference(encoded.embeds, expected.embeds) < TOLERANCE
    assert harness.difference(encoded.positions, expected.positions) < TOLERANCE
    assert np.array_equal(encoded.merged_into, expected.merged_into)
    states = _same(ours, torch_, tiny.prompt(2), images.numpy())
    _same(ours, torch_, [5], None, states)
    _same(ours, torch_, tiny.prompt(0), None)
    answers = [one.generate(pictures(tiny, 2), messages=chat(2), max_new_tokens=8) for one in (ours, torch_)]
    assert answers[0].token_ids == answers[1].token_ids
    assert answers[0].visual_tokens == answers[1].visual_tokens == tuple(2 * keep for keep in plan.keep[: plan.cached])


@pytest.mark.slow(
    beside="export/families/test_family_vocabulary.py::test_logits_of_kept_tokens_are_those_of_the_full_head"
)
@pytest.mark.parametrize("name", ELSEWHERE)
def test_so_do_those_of_other_families(name: str, bundles: Any, on_cpu: Any, on_openvino: Any) -> None:
    test_onnx_equals_compressed_torch(name, bundles, on_cpu)
    test_padding_is_kept_last_as_in_torch(name, bundles, on_cpu)
    test_graphs_pass_lint_and_are_parsed_without_a_gpu(name, bundles)
    if family_checkpoints.find(name).on_openvino:
        test_openvino_answers_as_onnx_runtime(name, on_openvino)


@pytest.fixture(scope="module")
def on_openvino(bundles: Any, on_cpu: Any) -> Any:
    """Sessions on OpenVINO and ONNX Runtime by family, opened once; wide pictures are cut where the family cuts."""

    @cache
    def open_(name: str) -> list[Session]:
        pytest.importorskip("openvino", reason="pip install 'luvc-export[openvino]'")
        tiny, bundle = exportable(name), bundles(name)
        theirs = on_cpu(name)
        if name in CUT:
            cuts = tiny.family.cuts(tiny.config, ((1, 1), (1, 2)))  # all that an export with tiles writes otherwise
            prompt = replace(bundle.manifest.prompt, cuts=cuts)
            bundle = replace(bundle, manifest=replace(bundle.manifest, prompt=prompt))
            theirs = Session(bundle, "cpu", threads=1, arithmetic="fp32")
        return [Session(bundle, "openvino", threads=1, arithmetic="fp32"), theirs]

    return open_


def test_the_families_on_openvino_have_the_operators_of_all(bundles: Any) -> None:
    """So what the others' graphs would add is another order of what these hold."""
    kinds = {}
    for name in FAMILIES:
        entry, reader = bundles(name).entry(), bundles(name).read
        models = [onnx.load_model_from_string(reader(file)) for file in (entry.vision, entry.decoder)]
        bodies = [node for model in models for body in model.functions for node in body.node]
        kinds[name] = {(n.domain, n.op_type) for n in (*bodies, *(n for model in models for n in model.graph.node))}
    here = set[tuple[str, str]]().union(*(kinds[name] for name in ON_OPENVINO))
    assert {name: kinds[name] - here for name in FAMILIES if kinds[name] - here} == {}


@pytest.mark.parametrize("name", ON_OPENVINO)
def test_openvino_answers_as_onnx_runtime(name: str, on_openvino: Any) -> None:
    """fp32: vision, prefill of two images, decode, text alone and a chat, from the same files."""
    tiny, (ours, theirs) = exportable(name), on_openvino(name)
    images = tiny.images(2).numpy()
    encoded, expected = ours.default.encode_images(images), theirs.default.encode_images(images)
    assert harness.difference(encoded.embeds, expected.embeds) < TOLERANCE
    assert np.array_equal(encoded.merged_into, expected.merged_into)
    before: list[Any] = [None, None]
    for ids, seen in ((tiny.prompt(2), True), ([5], False)):
        steps = [
            one.default.run(ids, one.default.encode_images(images) if seen else None, state, all_logits=True)
            for one, state in zip((ours, theirs), before, strict=True)
        ]
        assert harness.difference(steps[0].logits, steps[1].logits) < TOLERANCE
        for layer, kept in steps[1].kept.items():
            assert np.array_equal(steps[0].kept[layer], kept)
        before = [step.state for step in steps]
    for count in (0, 2):
        answers = [
            one.generate(pictures(tiny, count), messages=chat(count), max_new_tokens=8) for one in (ours, theirs)
        ]
        assert answers[0].token_ids == answers[1].token_ids


@pytest.mark.parametrize("name", slow_but(["internvl"], CUT))
def test_openvino_takes_tiles_as_onnx_runtime_does(name: str, on_openvino: Any) -> None:
    """A wide picture, and one beside a square one: cut, kept and said alike."""
    tiny, (ours, theirs) = exportable(name), on_openvino(name)
    wide, square = scenery(tiny, 1, 2), scenery(tiny, 1, 1)
    second = (1, 2) if name == "internvl" else (1, 1)  # LLaVA-OneVision cuts lone pictures alone
    for shown, tiles in (([wide], ((1, 2),)), ([square, wide], ((1, 1), second))):
        requests = [one.prepare(shown, messages=chat(len(shown))) for one in (ours, theirs)]
        assert (len(requests[0].images) > len(shown)) == ((1, 2) in tiles)
        seen = [one.default.encode_images(each.images) for one, each in zip((ours, theirs), requests, strict=True)]
        assert harness.difference(seen[0].embeds, seen[1].embeds) < TOLERANCE
        answer, expected = (one.generate(shown, messages=chat(len(shown)), max_new_tokens=8) for one in (ours, theirs))
        assert answer.token_ids == expected.token_ids
        assert answer.selection.tiles == expected.selection.tiles == tiles
        assert np.array_equal(answer.selection.merged_into, expected.selection.merged_into)
        assert answer.selection.kept.keys() == expected.selection.kept.keys() and expected.selection.kept
        for layer, kept in expected.selection.kept.items():
            assert np.array_equal(answer.selection.kept[layer], kept)


@pytest.mark.parametrize("name", FAMILIES)
def test_padding_is_kept_last_as_in_torch(name: str, bundles: Any, on_cpu: Any) -> None:
    """Of a picture that is half padding; a session that does not say where it is sees another picture."""
    tiny, bundle = exportable(name), bundles(name)
    plan = bundle.entry("thirds").plan
    assert (plan.encoder.reads_padding or name in WHOLE) and plan.decoder_padding
    sessions = on_cpu(name), Session(bundle, TorchBackend(tiny, plan))
    changed = False
    for case in questions(name, "pictures")[:2]:
        request = sessions[0].prepare(list(case.images), case.prompt)
        assert request.padding is not None and request.padding.any() and not request.padding.all()
        seen = [one.default.encode_images(request.images, request.padding) for one in sessions]
        assert harness.difference(seen[0].embeds, seen[1].embeds) < TOLERANCE
        assert np.array_equal(seen[0].merged_into, seen[1].merged_into)
        void = seen[0].padding
        assert np.array_equal(void, seen[1].padding) and void[0].any() and not void[0].all()
        steps = [
            one.default.run(request.token_ids, it, all_logits=True) for one, it in zip(sessions, seen, strict=True)
        ]
        assert harness.difference(steps[0].logits, steps[1].logits) < TOLERANCE
        for layer, kept in steps[0].kept.items():
            assert np.array_equal(kept, steps[1].kept[layer])
            assert (~void[0][kept[0]]).sum() == min(plan.keep[layer], (~void[0]).sum())
        forgetful = sessions[0].default.encode_images(request.images)
        without = sessions[0].default.run(request.token_ids, forgetful, all_logits=True)
        changed |= harness.difference(steps[0].logits, without.logits) > harness.SABOTAGE
    assert changed


@pytest.mark.parametrize("name", slow_but(["lfm2_vl"], CALIBRATED))
def test_parity_and_calibration_take_the_bundle(name: str, bundles: Any, tmp_path: Path) -> None:
    """Padded pictures and several; the reference is torch in one, the plan itself in the other."""
    bundle = bundles(name)
    asked = questions(name, "pictures")
    pair = open_pair(f"torch:{bundle.folder.parent / 'checkpoint'}", f"{bundle.folder}#thirds", threads=1)
    report = parity(*pair, asked[::2], observe=2, longest=4)
    assert report.passed, "\n".join(report.lines(True))
    recipe = Recipe(find("q8"), "max", 99.99, 0.0, False)
    report = calibrate(
        load(bundle.folder), few(asked[::3]), recipe, min_agreement=0.0, output=tmp_path / "q8", threads=1
    )
    assert report.plan == "thirds_quantized"
    assert len(report.made.answered) == 2 + 2  # held out of three with pictures, and of three without


@pytest.mark.parametrize(("name", "base"), [("smolvlm", "idefics3"), ("llava_next", "llava_onevision")])
def test_a_family_has_the_graphs_of_another(name: str, base: str) -> None:
    """Nothing that makes a graph is told apart, so one of them is traced."""
    graphs = {"vision", "decoder", "language_model", "encoder_shape", "decoder_shape", "unit_pixels", "image_size"}
    kind = type(families.find(name, "test"))
    assert kind.__mro__[1] is type(families.find(base, "test"))
    assert not graphs & {*vars(kind)} and name in {*ALIKE, *ALIKE.values()}


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in BUILT[:1]])
def test_graphs_pass_lint_and_are_parsed_without_a_gpu(name: str, bundles: Any) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="pip install 'luvc-export[rtx]'")
    bundle = bundles(name)
    prepared, logger = prepare_build(bundle, "rtx-ada", "thirds", precision="fp16"), trt.Logger(trt.Logger.ERROR)
    read = []
    for graph in prepared.graphs:
        network = trt.Builder(logger).create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, logger)
        parser.parse(graph.data, str(bundle.folder / "graph.onnx"))
        assert not [parser.get_error(i).desc() for i in range(parser.num_errors)]
        read.append({network.get_input(i).name for i in range(network.num_inputs)})
        assert network.num_outputs
    assert read[0] == {*graph_io.vision_inputs(bundle.entry("thirds").plan)}
    kept = {state.past for state in bundle.manifest.decoder.kept}
    assert {graph_io.VISUAL_PADDING, *kept} <= read[1]


@pytest.mark.slow(beside="export/families/test_family_graphs.py::test_graphs_pass_lint_and_are_parsed_without_a_gpu")
@pytest.mark.parametrize("name", slow_but(BUILT[:1], BUILT))
def test_graphs_pass_lint_and_build_without_a_gpu(name: str, bundles: Any) -> None:
    pytest.importorskip("tensorrt_rtx", reason="pip install 'luvc-export[rtx]'")
    bundle = bundles(name)
    build_engine(bundle.folder, "rtx-ada", "thirds", precision="fp16")
    entry = load(bundle.folder).engine("thirds", "rtx-ada")
    assert {item.name for item in entry.vision.inputs} == {graph_io.IMAGE, graph_io.PADDING}
    assert graph_io.VISUAL_PADDING in {item.name for item in entry.decoder.inputs}
    kept = {state.past for state in bundle.manifest.decoder.kept}
    assert kept <= {item.name for item in entry.decoder.inputs}
