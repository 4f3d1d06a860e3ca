"""Any value of any type in any field of a bundle's JSON gives a record that can be used, or an error of ours."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from flat_plans import flat_plan
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from json_values import anything, changed, of_record, of_type, places

from luvc_export.bundle.manifest import (
    CacheQuantisation,
    EngineEntry,
    FileRecord,
    GraphSet,
    ImageInput,
    LoraSlots,
    Manifest,
    PlanEntry,
    Prompt,
    Quantisation,
    Source,
    StoredCodes,
    Verified,
    Vocabulary,
    Weights,
    WeightTensor,
)
from luvc_export.bundle.replacing import inside
from luvc_export.core.files.json_file import parse_json
from luvc_export.core.files.json_records import from_json_data
from luvc_export.core.generation_defaults import GenerationDefaults
from luvc_export.core.plan import Plan
from luvc_export.core.shapes import ROWS, DecoderShape, State
from luvc_export.core.tiling import Prefix, Tiling, Video
from luvc_export.errors import BundleError, LuvcError
from luvc_export.packing.record import Pack
from luvc_export.runtime.prompt.question import VideoClip
from luvc_export.runtime.prompt.video_text import video_text

CALM = settings(deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
#: Each is one object of a JSON file; the plan has a reader of its own.
RECORDS = [
    CacheQuantisation, DecoderShape, EngineEntry, FileRecord, GenerationDefaults, GraphSet, ImageInput, LoraSlots, Pack,
    PlanEntry, Prefix, Prompt, Quantisation, Source, State, StoredCodes, Tiling, Verified, Video, Vocabulary, Weights,
    WeightTensor,
]  # fmt: skip


def full(plan: Plan) -> Manifest:
    """A manifest in which nearly every part is there."""
    names = ("vision.onnx", "decoder.onnx")
    video = Video("<a>", 2, ("at {seconds} of {number}", 256), opening="{count}, {duration}", pooled=(1, 2))
    return Manifest(
        source=Source("tiny", "tiny", "0"),
        dtype="fp32",
        image=ImageInput((4, 4), "pad", (127, 127, 127), frames=2),
        prompt=Prompt(256, (257,), 48, cuts=(Tiling((256,)),), video=video, prefix=Prefix("\n", "")),
        decoder=DecoderShape(2, 4, 1, 1, 4, 8, 260, 64, states=(State(1, "conv", (4, ROWS), "float32"),)),
        default_plan="half",
        plans={"half": PlanEntry(plan, *names, size=(4, 4), precision="fp32")},
        weights=Weights("copy", None, {"embed": WeightTensor("weights", 3, 16, "F32", (2, 2))}),
        files={name: FileRecord("0" * 64, 3) for name in (*names, "weights")},
        tools={"python": "3.11"},
        generation=GenerationDefaults(),
        vocabulary=Vocabulary(200, 260, "texts"),
        lora=LoraSlots(4, "model.layers", {"q_proj": "self_attn.q_proj"}, {"0.q_proj": (4, 4), "1.q_proj": (4, 4)}),
    )


def use(manifest: Manifest, folder: Path) -> None:
    """What a load does of the manifest alone."""
    again = json.loads(json.dumps(manifest.to_json()))
    assert Manifest.from_json(again, "again") is not None
    for name, known in manifest.files.items():
        assert inside(folder, name) and known.bytes is not None
        (folder / name).is_file()
    for name, entry in manifest.plans.items():
        manifest.files_of(name)
        manifest.states_of(entry)
    if manifest.lora is not None:
        assert len(manifest.lora.inputs) == 1 + 2 * len(manifest.lora.slots)
    if manifest.prompt.video is not None:
        clip = VideoClip((None,) * 8, 2.0)  # type: ignore[arg-type]
        video_text(manifest.prompt.video, 8 // manifest.image.frames or 1, clip)
    str(manifest.vocabulary).encode()


def stored(data: Any) -> Any:
    """Plain data as a bundle's file gives it back."""
    return parse_json(json.dumps(data).encode(), "luvc.json", BundleError, "the manifest")


def outcome(data: Any, folder: Path) -> str:
    """Used, or refused by an error of ours; whatever else is raised goes on."""
    try:
        use(Manifest.from_json(stored(data), "luvc.json"), folder)
    except LuvcError as error:
        str(error).encode()
        return "refused"
    return "used"


@pytest.fixture(scope="module")
def plan() -> Plan:
    return flat_plan(grid=(2, 2), keep=(2, 0))


def test_the_whole_manifest_is_used_as_it_is(plan: Plan, tmp_path: Path) -> None:
    assert outcome(full(plan).to_json(), tmp_path) == "used"


@settings(CALM, max_examples=200)
@given(st.data())
def test_any_value_in_any_field_of_a_manifest(plan: Plan, tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    whole = full(plan).to_json()
    at, hint = data.draw(st.sampled_from(list(places(Manifest, whole))))
    value = data.draw(st.one_of(of_type(hint), of_type(hint), anything))
    assert outcome(changed(whole, at, value), tmp_path_factory.getbasetemp()) in ("used", "refused")


@settings(CALM, max_examples=15)
@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
@given(data=st.data())
def test_any_values_of_any_record(record: type, data: Any) -> None:
    plain = data.draw(of_record(record))
    if plain and data.draw(st.booleans()):
        plain = {**plain, data.draw(st.sampled_from(sorted(plain))): data.draw(anything)}
    try:
        value: Any = from_json_data(record, stored(plain), "luvc.json")
    except LuvcError as error:
        str(error).encode()
        return
    assert from_json_data(record, stored(dataclasses.asdict(value)), "luvc.json") == value


@settings(CALM, max_examples=150)
@given(st.data())
def test_any_value_in_any_field_of_a_plan(plan: Plan, data: Any) -> None:
    whole = plan.to_json()
    at, hint = data.draw(st.sampled_from(list(places(Plan, whole))))
    try:
        read = Plan.from_json(stored(changed(whole, at, data.draw(st.one_of(of_type(hint), anything)))))
        assert Plan.from_json(read.to_json()) == read
        _ = read.prunes
    except LuvcError as error:
        str(error).encode()


@pytest.mark.parametrize(
    ("at", "value", "what"),
    [
        (("lora", "slots"), {"q_proj": [4, 4]}, r"slot for adapters is none(.|\n)*'q_proj'(.|\n)*LAYER\.MODULE"),
        (("lora", "slots"), {"2.q_proj": [4, 4]}, "a layer of 0 to 1"),
        (("lora", "slots"), {"0.v_proj": [4, 4]}, r"a module of lora\.modules"),
        (("lora", "slots"), {"0.q_proj": [10**9, 4]}, r"\[1000000000, 4\](.|\n)*1 to 16,777,216"),
        (("lora", "rank"), 2**20, "rank 1048576"),
        (("prompt", "video", "frames"), 4, r"more frames than an image(.|\n)*got: 4(.|\n)*at most 2"),
        (("prompt", "video", "written"), ["no token"], "has its token once"),
        (("prompt", "video", "step"), 1.0, "stand side by side"),
    ],
)
def test_what_was_a_foreign_error_is_refused_by_name(at: Any, value: Any, what: str, plan: Plan) -> None:
    with pytest.raises(LuvcError, match=what):
        Manifest.from_json(changed(full(plan).to_json(), at, value), "luvc.json")


@pytest.mark.parametrize("name", ["a" * 256, "ä" * 128, "\ud800" * 100])
def test_a_name_longer_than_file_systems_take_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(LuvcError, match=r"leaves its folder(.|\n)*at most 255 bytes"):
        inside(tmp_path, name)
    assert inside(tmp_path, "a" * 255).name == "a" * 255
