"""What entries say of themselves decides which plan stands in for which; names say nothing but in schema 1."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from flat_plans import replan

from luvc_export.bundle import variants
from luvc_export.bundle.folder import Bundle
from luvc_export.bundle.manifest import CalibrationData, Manifest, PlanEntry, Quantisation
from luvc_export.errors import BundleError

SIZE, OTHER = (112, 112), (112, 56)


def entry(bundle: Bundle, size: tuple[int, int] = SIZE, root: str | None = "a", **fields: Any) -> PlanEntry:
    """An entry like the demo's; ``fields`` are the plan's."""
    own = bundle.entry("none")
    return replace(own, plan=replan(own.plan, **fields), size=size, variant_of=root)


@pytest.fixture
def manifest(demo_bundle: Bundle) -> Manifest:
    """Names that say nothing, or what is not so."""
    bundle, units = demo_bundle, demo_bundle.entry("none").plan.units
    video: dict[str, Any] = {"joint_images": 2, "keep": (2 * units,) * demo_bundle.manifest.decoder.layers}
    held: dict[str, Any] = {"bucket": units // 2, "merges": (), "keep": (units // 2,) * bundle.manifest.decoder.layers}
    quantised = Quantisation("int8", "weights", {}, {}, CalibrationData("x", "0", 1, 1))
    plans = {
        "a": entry(bundle, root=None),
        "b": entry(bundle, OTHER),
        "film": entry(bundle, **video),
        "film, wide": entry(bundle, OTHER, **video),
        "half": entry(bundle, spectrum="1d", **held),
        "half b": entry(bundle, OTHER, spectrum="1d", **held),
        "eight": replace(entry(bundle), quantised=quantised, precision="int8"),
        "eight b": replace(entry(bundle, OTHER), quantised=quantised, precision="int8"),
        "a@video": entry(bundle, root=None),
    }
    return replace(bundle.manifest, plans=plans, default_plan="a", sets=())


def test_facts_route_and_names_do_not(manifest: Manifest) -> None:
    assert variants.sizes_of(manifest, "a") == {SIZE: "a", OTHER: "b"}
    assert variants.sizes_of(manifest, "film") == {SIZE: "film", OTHER: "film, wide"}
    assert variants.sizes_of(manifest, "eight") == {SIZE: "eight", OTHER: "eight b"}
    assert variants.sizes_of(manifest, "b") == {OTHER: "b"}, "who asks for a size by name gets it"
    assert (
        variants.shared_plan(manifest, "a", "clip") == "film" and variants.shared_plan(manifest, "a", "tiles") is None
    )
    for name in ("b", "film", "half", "eight", "a@video"):
        assert variants.shared_plan(manifest, name, "clip") is None, name
    units = manifest.plans["half"].bucket
    assert variants.buckets_of(manifest, "a") == {units: "half"} and not variants.buckets_of(manifest, "half")
    assert variants.buckets_of(manifest, "b") == {units: "half b"} and not variants.buckets_of(manifest, "eight")
    assert variants.answering(manifest, "a") == {"a", "b", "film", "film, wide", "half", "half b"}
    assert variants.answering(manifest, "b") == {"b", "half b"} and variants.answering(manifest, "a@video") == {
        "a@video"
    }


def test_entries_say_it_in_json_and_are_read_back(manifest: Manifest) -> None:
    data = manifest.to_json()
    fields = {name: [data["plans"]["half b"][name] for name in ("size", "kind", "bucket", "precision", "variant_of")]
            for name in ("half b",)}  # fmt: skip
    assert fields == {"half b": [[*OTHER], "picture", manifest.plans["half"].bucket, manifest.dtype, "a"]}
    assert data["plans"]["film"]["kind"] == "clip" and data["plans"]["eight"]["precision"] == "int8"
    assert Manifest.from_json(data, "luvc.json") == manifest


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"kind": "clip"}, "contradicts those it follows from"),
        ({"bucket": 3}, "contradicts those it follows from"),
        ({"precision": "int8"}, "precision is not that of its graphs"),
        ({"variant_of": "gone"}, "stands beside one that the bundle has not"),
        ({"variant_of": "b"}, "or that is a variant itself"),
        ({"variant_of": "a"}, "or that is a variant itself"),
    ],
)
def test_what_an_entry_cannot_say(manifest: Manifest, fields: dict[str, Any], wrong: str) -> None:
    data = manifest.to_json()
    data["plans"]["a"] |= fields
    with pytest.raises(BundleError, match=wrong):
        Manifest.from_json(data, "luvc.json")


def without_facts(manifest: Manifest, names: dict[str, str]) -> dict[str, Any]:
    """JSON of schema 1: entries under names that say what they are."""
    data = manifest.to_json() | {"schema_version": 1}
    data["plans"] = {name: data["plans"][old] for name, old in names.items()}
    for held in data["plans"].values():
        size = [held.pop(name) for name in ("kind", "bucket", "precision", "variant_of", "size")][-1]
        if size != [*manifest.image.size]:
            held["size"] = size
    return data


def test_names_of_schema_1_are_read_once(manifest: Manifest) -> None:
    names = {"a": "a", "a@112x56": "b", "a@video": "film", "a@video@112x56": "film, wide", "a@50": "half"}
    names |= {"a@112x56@50": "half b", "a_int8": "eight", "a_int8@112x56": "eight b", "x": "a@video"}
    old = without_facts(manifest, names)
    read = Manifest.from_json(json.loads(json.dumps(old)), "luvc.json")
    assert {name: read.plans[name] for name in names} == {name: manifest.plans[known] for name, known in names.items()}
    assert read.schema_version == manifest.schema_version and "variant_of" not in old["plans"]["a@50"]


@pytest.mark.parametrize("damage", [{"plans": []}, {"plans": {"a": 1}}, {"image": None}, {"dtype": 3}])
def test_damaged_files_of_schema_1_are_refused_as_before(manifest: Manifest, damage: dict[str, Any]) -> None:
    with pytest.raises(BundleError, match=r"luvc\.json"):
        Manifest.from_json(without_facts(manifest, {"a": "a"}) | damage, "luvc.json")
