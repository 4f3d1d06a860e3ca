"""States in ``luvc.json``: bundles without any are written and read as before; a stranger's are checked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from luvc_export.bundle.folder import Bundle
from luvc_export.bundle.manifest import Manifest
from luvc_export.core.shapes import State
from luvc_export.errors import BundleError


def refusal_of(bundle: Bundle, *states: State) -> dict[str, Any]:
    """The manifest of a bundle whose decoder has these states."""
    decoder = replace(bundle.manifest.decoder, states=states)
    return replace(bundle.manifest, decoder=decoder, sets=()).to_json()


def test_a_bundle_without_states_is_written_as_before(demo_bundle: Bundle) -> None:
    data = refusal_of(demo_bundle)
    assert data["schema_version"] == 2 and "states" not in data["decoder"]
    assert Manifest.from_json(data, "luvc.json") == replace(demo_bundle.manifest, sets=())


def test_one_with_states_is_read_back(demo_bundle: Bundle) -> None:
    states = (State(0, "place", (-1,), "int64"), State(1, "convolution", (8, 2), "float32"))
    data = refusal_of(demo_bundle, *states)
    assert data["schema_version"] == 3 and Manifest.from_json(data, "luvc.json").decoder.states == states


def test_a_window_is_schema_4_and_bundles_without_one_are_read(demo_bundle: Bundle) -> None:
    place = State(0, "place", (-1,), "int64", 512)
    data = refusal_of(demo_bundle, place)
    assert data["schema_version"] == 4 and Manifest.from_json(data, "luvc.json").decoder.states == (place,)
    assert Manifest.from_json(data, "luvc.json").decoder.most_rows == {0: 576}
    data = refusal_of(demo_bundle, replace(place, window=None))
    assert data["schema_version"] == 3 and "window" not in data["decoder"]["states"][0]
    assert Manifest.from_json(data, "luvc.json").decoder.most_rows == {}


@pytest.mark.parametrize(
    ("state", "wrong"),
    [
        (State(0, "place", (-1,), "int64", 0), "window 0"),
        (State(0, "place", (-1,), "int32", 8), "window 8"),
        (State(0, "other", (-1,), "int64", 8), "'other'"),
        (State(99, "a", (1,), "float32"), "layer 99"),
        (State(0, "key", (1,), "float32"), "'key'"),
        (State(0, "a.b", (1,), "float32"), "'a.b'"),
        (State(0, "a", (), "float32"), r"\[\]"),
        (State(0, "a", (-1, -1), "float32"), r"\[-1, -1\]"),
        (State(0, "a", (0,), "float32"), r"\[0\]"),
        (State(0, "a", (2**20, 2**20), "float32"), "at most"),
        (State(0, "a", (1,), "float31"), "none that this version knows"),  # type: ignore[arg-type]
    ],
)
def test_a_state_that_none_could_have_is_refused(demo_bundle: Bundle, state: State, wrong: str) -> None:
    with pytest.raises(BundleError, match=wrong):
        Manifest.from_json(refusal_of(demo_bundle, state), "luvc.json")


def test_a_layer_that_keeps_nothing_is_refused(demo_bundle: Bundle) -> None:
    data = refusal_of(demo_bundle)
    data["decoder"]["kv_heads"] = 0
    with pytest.raises(BundleError, match="layer 0, which has no keys"):
        Manifest.from_json(data, "luvc.json")
