"""A bundle with buckets: the host chooses units and the plan, ONNX Runtime and OpenVINO answer as torch does."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import family_bundles
import numpy as np
import ort_engine
import pytest
import stand_in
from family_harness import build
from family_questions import small
from flat_plans import replan
from numpy.typing import NDArray
from test_family_joint import MOMENTS
from torch_backend import TorchBackend

from luvc_export import build_engine, export_bundle
from luvc_export.bundle.folder import Bundle, load
from luvc_export.bundle.manifest import Manifest
from luvc_export.cli.answer_lines import bucket_counts, bucket_line
from luvc_export.core.plan import EncoderPrune, Plan
from luvc_export.core.plan.plan_set import with_buckets
from luvc_export.engines.profiles import Capacity
from luvc_export.errors import LuvcError, PlanError, UsageError
from luvc_export.pipeline import make_plans
from luvc_export.runtime import backends
from luvc_export.runtime.cuda.device import Gpu
from luvc_export.runtime.engine.plan_routing import PlanRouter
from luvc_export.runtime.media.token_visualisation import draw
from luvc_export.runtime.ort import OrtBackend
from luvc_export.runtime.session import Session
from luvc_export.runtime.tensorrt.backend import TrtBackend

pytestmark = pytest.mark.slow(beside="export/families/test_family_unit_buckets.py::test_graph_equals_torch")

FAMILY = "qwen2_5_vl"
BACKENDS = ("cpu", "openvino")
#: Buckets are of the encoder: one layer of the LLM, before which it prunes.
LAYERS = 1


@pytest.fixture(scope="module")
def bundle(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A copy of ``family_bundles.with_half``."""
    kept, folder = family_bundles.with_half(pytestconfig.cache.mkdir("buckets")), tmp_path_factory.mktemp(FAMILY)
    return load(shutil.copytree(kept, folder, dirs_exist_ok=True) / "bundle")


@pytest.fixture(scope="module")
def checkpoint(bundle: Bundle) -> str:
    return str(bundle.folder.parent / "checkpoint")


def _page(novel: int) -> NDArray[np.uint8]:
    """A picture of one colour but for so many units."""
    tiny, random = small(FAMILY, LAYERS), np.random.default_rng(novel)
    side = tiny.family.unit_pixels(tiny.config)
    page = np.full((*tiny.size, 3), 200, np.uint8)
    columns = tiny.size[1] // side
    for unit in range(novel - 1):  # with the first one, which nothing foretells
        row, column = divmod(unit + 1, columns)
        box = page[row * side : (row + 1) * side, column * side : (column + 1) * side]
        box[:] = random.integers(0, 256, box.shape)
    return page


def _torch(bundle: Bundle, plan: str) -> Session:
    return Session(bundle, TorchBackend(small(FAMILY, LAYERS), bundle.entry(plan).plan), plan=plan)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_smallest_bucket_that_holds_a_picture_answers(bundle: Bundle, backend: str) -> None:
    pytest.importorskip("openvino" if backend == "openvino" else "onnxruntime")
    session = Session(bundle, backend, threads=1, arithmetic="fp32")
    units = bundle.entry("some").plan.units
    assert bundle.buckets_of() == {units // 2: "some@50"}
    for novel, name in ((4, "some@50"), (units, "some")):
        page = _page(novel)
        answer = session.generate(page, "what?", max_new_tokens=4)
        assert answer.token_ids == _torch(bundle, name).generate(page, "what?", max_new_tokens=4).token_ids
        assert answer.past.loaded.plan_name == name
        counts = bucket_counts(answer.selection)
        computed = units // (2 if name == "some@50" else 1)
        assert counts is not None and counts["computed"] == computed and counts["lost"] == 0
    loaded = {"_vision", "_decoder"} & {*session.plans["some@50"].backend.__dict__}
    assert bool(loaded) == (backend == "cpu")  # whose graphs share weights; elsewhere the plan took its turn
    batch = session.generate_batch([{"image": _page(n), "prompt": "what?"} for n in (4, units)], max_new_tokens=4)
    assert [one.selection.merged_into.min() for one in batch if one.selection.merged_into is not None] == [-1, 0]
    assert batch[1].token_ids == answer.token_ids


def test_all_units_answer_exactly_as_the_plan_alone(bundle: Bundle) -> None:
    """Nothing of the plan's own graphs knows that there are buckets beside it."""
    page = _page(bundle.entry("some").plan.units)
    beside = Session(bundle, "cpu", threads=1)
    without = Session(bundle, "cpu", threads=1)
    without.plans = PlanRouter(without.default, None)
    one, other = (session.generate(page, "what?", max_new_tokens=6, logprobs=3) for session in (beside, without))
    assert one.token_ids == other.token_ids and one.logprobs == other.logprobs


def test_a_chat_leaves_a_bucket_that_its_next_picture_does_not_fit(bundle: Bundle) -> None:
    session = Session(bundle, "cpu", threads=1)
    first = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what?"}]}]
    seen = session.generate([_page(4)], messages=first, max_new_tokens=3)
    chat = [*first, {"role": "assistant", "content": [{"type": "text", "text": seen.text}]}, *first]
    pages = [_page(4), _page(bundle.entry("some").plan.units)]
    later = session.generate(pages, messages=chat, after=seen, max_new_tokens=3)
    assert seen.past.loaded.plan_name == "some@50" and later.past.loaded.plan_name == "some" and not later.reused


def test_a_bucket_asked_for_by_name_takes_what_it_holds_and_says_what_is_lost(bundle: Bundle) -> None:
    units = bundle.entry("some").plan.units
    answer = Session(bundle, "cpu", plan="some@50", threads=1).generate(_page(units - 2), "what?", max_new_tokens=1)
    line, counts = bucket_line(answer.selection), bucket_counts(answer.selection)
    assert counts is not None and counts["novel"] >= units - 2 and counts["lost"] == counts["novel"] - units // 2
    assert line is not None and f"{units // 2} of {units} units computed" in line
    assert f"{counts['lost']} of those are left out" in line
    merged = answer.selection.merged_into
    assert merged is not None
    sheet = draw(answer.past.images[0][0], answer.selection.grid, merged[0], {}, foretold=True)
    left = np.asarray(sheet)[:, :340].astype(int)
    assert (np.ptp(left, -1) == 0).mean() > 0.4  # units that left are grey


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_bucket_asked_for_by_name_answers_text_alone_also_among_pictures(bundle: Bundle, backend: str) -> None:
    """Each as torch answers it alone: on the real graphs, and in one batch with pictures."""
    pytest.importorskip("openvino" if backend == "openvino" else "onnxruntime")
    session, torch_ = Session(bundle, backend, "some@50", threads=1, arithmetic="fp32"), _torch(bundle, "some@50")
    rows: list[dict[str, Any]] = [
        {"image": _page(4), "prompt": "what?"},
        {"prompt": "2 + 2?"},
        {"image": _page(9), "prompt": "and what is there to be seen?"},
    ]
    wanted = [torch_.generate(**row, max_new_tokens=4).token_ids for row in rows]
    assert session.generate(**rows[1], max_new_tokens=4).token_ids == wanted[1]
    batch = session.generate_batch(rows, max_new_tokens=4)
    assert [one.token_ids for one in batch] == wanted and len({*wanted}) > 1


def test_the_matrix_of_features_finds_a_bucket_equal_and_another_model_not(bundle: Bundle) -> None:
    """A slice of benchmarks/measure/matrix, whose records say nothing but equal or refused."""
    matrix = Path(__file__).parents[3] / "benchmarks" / "measure" / "matrix"
    sys.path.insert(0, str(matrix))
    import feature_matrix

    tiny = small(FAMILY, LAYERS)
    assert feature_matrix.compared(bundle, "some@50", tiny, "")["equal"] == 12
    other = feature_matrix.compared(bundle, "some@50", build(tiny.family, tiny.config, seed=1), "")
    assert {cell.partition(",")[0] for cell in other["differs"]} == {"cpu", "openvino"} and other["equal"] == 4
    for record in feature_matrix.read():
        cells = record.get("refused", {})
        assert "differs" not in record and (record.get("equal", 0) + len(cells) == 12 or len(cells) == 1), record


def test_sabotage_other_units_are_other_tokens(bundle: Bundle) -> None:
    session, page = Session(bundle, "cpu", plan="some@50", threads=1), _page(9)
    request = session.prepare(page, "what?")
    right = session.default.encode_images(request.images, units=request.units)
    assert request.units is not None
    others = np.arange(12, 24, dtype=np.int32)[None]
    wrong = session.default.encode_images(request.images, units=others)
    assert np.abs(right.embeds - wrong.embeds).max() > 0.01


def test_engines_build_without_a_gpu(bundle: Bundle) -> None:
    pytest.importorskip("tensorrt_rtx", reason="pip install 'luvc-export[rtx]'")
    engine = build_engine(bundle.folder, "rtx-ada", "some@50", precision="fp16").engine("some@50", "rtx-ada")
    assert [(one.name, one.dtype) for one in engine.vision.inputs] == [("image", "uint8"), ("units", "int32")]
    high = engine.vision.profiles[0].maximum
    assert high["units"] == (1, bundle.entry("some@50").plan.encoder.bucket)


@pytest.mark.parametrize("built", [("some", "some@50"), ("some",)])
def test_engines_take_the_smallest_bucket_that_was_built(
    bundle: Bundle, built: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the stand-in GPU (see ort_engine), with engines for another target that do not count."""
    gpu, engines = Gpu(library=stand_in.library()), {}
    for name in ("some", "some@50"):
        engines[name] = ort_engine.describe(bundle, name, "concat", Capacity(text=96, groups=1, logits=96))
    entries = [replace(*engines[name].bundle.manifest.engines, target="stand-in") for name in built]
    entries += [replace(*engines["some@50"].bundle.manifest.engines, target="elsewhere")]
    held = Bundle(bundle.folder, replace(bundle.manifest, engines=tuple(entries)))

    def opened(name: str, *, plan: str | None, **more: Any) -> TrtBackend:
        models = engines[plan or "some"].models
        return TrtBackend(
            held,
            plan,
            "stand-in",
            gpu=gpu,
            opener=lambda file: ort_engine.OrtEngine(gpu, models[file.file.split(".")[0]], bundle.folder, file, 9000),
        )

    monkeypatch.setattr(backends, "open_backend", opened)
    session = Session(held, "tensorrt", "some")
    for novel, name in ((4, built[-1]), (bundle.entry("some").plan.units, "some")):
        answer = session.generate(_page(novel), "what?", max_new_tokens=4)
        assert answer.past.loaded.plan_name == name and answer.backend == "tensorrt"
        wanted = Session(bundle, "cpu", name, threads=1)
        wanted.plans = PlanRouter(wanted.default, None)
        assert answer.token_ids == wanted.generate(_page(novel), "what?", max_new_tokens=4).token_ids


def test_graphs_of_buckets_read_the_same_weights_and_answer_as_packed_ones(bundle: Bundle) -> None:
    """Against a bundle that holds the plan alone, whose session folds and packs them as ever; and a sabotage."""
    plain = Bundle(bundle.folder, replace(bundle.manifest, plans={"some": bundle.entry("some")}))
    page, shared = _page(bundle.entry("some").plan.units), Session(bundle, "cpu", threads=1)
    one = shared.generate(page, "what?", max_new_tokens=6, logprobs=3)
    other = Session(plain, "cpu", threads=1).generate(page, "what?", max_new_tokens=6, logprobs=3)
    assert one.token_ids == other.token_ids
    for mine, packed in zip(one.logprobs or (), other.logprobs or (), strict=True):
        assert mine.logprob == pytest.approx(packed.logprob, abs=1e-4)
    small_one = shared.plans["some@50"].backend
    small_one.load()
    assert isinstance(small_one, OrtBackend) and isinstance(shared.backend, OrtBackend)
    ours, theirs = shared.backend._sharing, small_one._sharing
    assert ours is not None and theirs is not None and not shared.backend.capabilities.packs_weights
    at = [{value.data_ptr() for values in sharing._values.values() for value in values} for sharing in (ours, theirs)]
    assert at[0] == at[1] and len(at[0]) > 20


def test_what_is_new_stands_in_the_manifest(bundle: Bundle) -> None:
    data = bundle.manifest.to_json()
    assert data["plans"]["some"]["plan"]["encoder"]["bucket"] == data["image"]["unit_tolerance"] == 0
    assert data["plans"]["some@50"]["plan"]["encoder"]["bucket"] == bundle.entry("some").plan.units // 2
    data["image"]["unit_tolerance"] = 3
    assert Manifest.from_json(data, "luvc.json").image.unit_tolerance == 3
    for wrong in (-1, 256, "3"):
        data["image"]["unit_tolerance"] = wrong
        with pytest.raises(LuvcError, match="unit_tolerance"):
            Manifest.from_json(data, "luvc.json")


@pytest.mark.parametrize(
    ("choices", "refusal"),
    [
        ({"unit_buckets": [50, 25, 125]}, ["25 after 50: expected ascending", "125: expected 1 to 100 percent"]),
        ({"unit_buckets": [100]}, ["no bucket below 100"]),
        ({"unit_buckets": [1, 2]}, ["nothing stays: 1 % of 24 units are none", "nothing stays: 2 % of 24"]),
        ({"unit_buckets": [50], "merge_keep": 0.5}, ["merges: OIM pairs rows", "--merge-keep 1"]),
    ],
)
def test_bad_buckets_are_refused_before_the_work(checkpoint: str, choices: dict[str, Any], refusal: list[str]) -> None:
    with pytest.raises(UsageError) as refused:
        make_plans(checkpoint, ["thirds"], image_size=small(FAMILY, LAYERS).size, **choices)
    assert all(text in str(refused.value) for text in refusal), str(refused.value)
    assert "where: --unit-buckets" in str(refused.value)


def _with_bucket(plan: Plan, bucket: object) -> dict[str, Any]:
    data = plan.to_json()
    return {**data, "encoder": {**data["encoder"], "bucket": bucket}}


def test_a_prune_of_the_encoder_and_a_videos_budget_take_no_bucket() -> None:
    plan = small(FAMILY, LAYERS).plan
    with pytest.raises(PlanError, match=r"(?s)encoder\.prune: .*sharing\.images: "):
        replan(
            plan,
            keep=(12,) * plan.layers,
            bucket=12,
            spectrum="1d",
            joint_images=MOMENTS,
            encoder_prune=EncoderPrune(0, 0.5),
        )
    refused: tuple[Any, ...] = (24, -1, 12.0)
    for wrong in refused:
        with pytest.raises(PlanError, match=rf"encoder\.bucket: got {wrong!r}, expected 1 to 23"):
            plan.changed(bucket=wrong)
    for wrong in (24, -1):
        with pytest.raises(PlanError, match=rf"encoder\.bucket: got {wrong!r}, expected 1 to 23"):
            Plan.from_json(_with_bucket(plan, wrong))
    for wrong in (True, 12.5, "12"):
        with pytest.raises(PlanError, match=rf"expected a whole number(.|\n)*encoder\.bucket\n  got: {wrong!r}"):
            Plan.from_json(_with_bucket(plan, wrong))
    pruned = replan(plan, keep=(12,) * plan.layers, bucket=12)
    assert Plan.from_json(_with_bucket(pruned, 12.0)) == pruned  # JSON has one kind of number
    film = {"film": replan(plan, joint_images=MOMENTS)}
    assert [*with_buckets({"none": plan, **film}, [50])] == ["none", "film", "none@50"]


def test_a_tolerance_without_buckets_is_refused(checkpoint: str, tmp_path: Path) -> None:
    tiny = small(FAMILY, LAYERS)
    with pytest.raises(UsageError, match="a tolerance is for buckets"):
        export_bundle(
            checkpoint,
            tmp_path / "b",
            {"none": small(FAMILY, LAYERS).plan},
            image_size=small(FAMILY, LAYERS).size,
            unit_tolerance=4,
        )
    plans: dict[str, Plan] = with_buckets({"none": small(FAMILY, LAYERS).plan}, [50])
    with pytest.raises(UsageError, match="0 to 255 levels"):
        export_bundle(checkpoint, tmp_path / "b", plans, image_size=tiny.size, unit_tolerance=256)
    assert not (tmp_path / "b").exists()
