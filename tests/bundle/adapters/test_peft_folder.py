"""Folders of adapters: factors as slots take them, and strangers' files refused before anything is made of them."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lora_bundle
import ml_dtypes
import numpy as np
import pytest

from luvc_export.bundle.adapters.peft_folder import named_folders, read_adapter
from luvc_export.bundle.manifest import LoraSlots
from luvc_export.errors import CheckpointError, UsageError

PATHS = ("self_attn.q_proj", "mlp.down_proj")
SLOTS = LoraSlots(
    4,
    "model.language_model.layers",
    {path.rpartition(".")[2]: path for path in PATHS},
    {f"{layer}.{path.rpartition('.')[2]}": lora_bundle.SHAPES[path] for layer in range(2) for path in PATHS},
)


def manifest(slots: LoraSlots | None = SLOTS, dtype: str = "fp32") -> Any:
    return SimpleNamespace(lora=slots, dtype=dtype)


@pytest.fixture
def tensors() -> dict[str, Any]:
    return dict(lora_bundle.factors(0, 4, PATHS))


def test_factors_are_turned_and_scaled(tmp_path: Path, tensors: dict[str, Any]) -> None:
    adapter = read_adapter(lora_bundle.write_adapter(tmp_path, tensors), manifest())
    assert adapter.rank == 4 and adapter.factors.keys() == SLOTS.slots.keys()
    name = f"{lora_bundle.PREFIX}.1.mlp.down_proj"
    a, b = adapter.factors["1.down_proj"]
    np.testing.assert_array_equal(a, tensors[f"{name}.lora_A.weight"].T)
    np.testing.assert_array_equal(b, 2 * tensors[f"{name}.lora_B.weight"].T)


@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16])
def test_half_precision(tmp_path: Path, tensors: dict[str, Any], kind: Any) -> None:
    narrow = {name: array.astype(kind) for name, array in tensors.items()}
    a, _ = read_adapter(lora_bundle.write_adapter(tmp_path, narrow), manifest()).factors["0.q_proj"]
    np.testing.assert_array_equal(a, narrow[f"{lora_bundle.PREFIX}.0.self_attn.q_proj.lora_A.weight"].T.astype("f4"))


@pytest.mark.parametrize("prefix", ["model.layers", "language_model.model.layers"])
def test_names_of_earlier_transformers(tmp_path: Path, tensors: dict[str, Any], prefix: str) -> None:
    renamed = {name.replace("model.language_model.layers", prefix): array for name, array in tensors.items()}
    assert read_adapter(lora_bundle.write_adapter(tmp_path, renamed), manifest()).factors.keys() == SLOTS.slots.keys()


def test_products_of_one_name_are_told_apart_by_their_paths(tmp_path: Path) -> None:
    """As of LFM2: what is written for one must not land beside the other."""
    paths = "self_attn.out_proj", "conv.out_proj"
    slots = LoraSlots(
        4, SLOTS.prefix, {path: path for path in paths}, {f"{n}.{path}": (192, 192) for n, path in enumerate(paths)}
    )
    ones = np.ones((4, 192), np.float32)
    tensors = {f"{lora_bundle.PREFIX}.{n}.{paths[n]}.lora_{part}.weight": ones for n in range(2) for part in "AB"}
    tensors = {name: array if "lora_A" in name else array.T.copy() for name, array in tensors.items()}
    adapter = read_adapter(lora_bundle.write_adapter(tmp_path / "right", tensors), manifest(slots))
    assert adapter.factors.keys() == slots.slots.keys()
    crossed = {name.replace("conv", "self_attn"): array for name, array in tensors.items()}
    with pytest.raises(CheckpointError, match=r"no slots for(.|\n)*layers\.1\.self_attn\.out_proj"):
        read_adapter(lora_bundle.write_adapter(tmp_path / "crossed", crossed), manifest(slots))


@pytest.mark.parametrize(
    ("old", "new", "refusal"),
    [
        ("language_model.layers.0", "language_model.layers.9", r"no slots for(.|\n)*layers\.9\.(.|\n)*--lora-targets"),
        ("self_attn.q_proj", "self_attn.k_proj", r"no slots for(.|\n)*k_proj"),
        ("mlp.down_proj", "experts.down_proj", r"no slots for(.|\n)*experts\.down_proj"),
        ("language_model.layers.0", "visual.layers.0", r"no slots for(.|\n)*visual\.layers"),
        ("language_model.layers.0", "vision_tower.encoder.layers.0", r"no slots for(.|\n)*vision_tower"),
        ("lora_A.weight", "lora_A.bias", r"no slots for(.|\n)*lora_A\.bias"),
        ("lora_A.weight", "lora_magnitude_vector", r"no slots for(.|\n)*magnitude"),
    ],
)
def test_a_module_without_a_slot(tmp_path: Path, tensors: dict[str, Any], old: str, new: str, refusal: str) -> None:
    """Of the encoder too, whose layers are called as the LLM's are: it must not land beside the LLM."""
    renamed = {name.replace(old, new): array for name, array in tensors.items()}
    with pytest.raises(CheckpointError, match=refusal):
        read_adapter(lora_bundle.write_adapter(tmp_path, renamed), manifest())


def halved(tensors: dict[str, Any]) -> None:
    del tensors[f"{lora_bundle.PREFIX}.0.self_attn.q_proj.lora_B.weight"]


def infinite(tensors: dict[str, Any]) -> None:
    tensors[f"{lora_bundle.PREFIX}.0.self_attn.q_proj.lora_B.weight"][0, 0] = np.inf


def whole(tensors: dict[str, Any]) -> None:
    name = f"{lora_bundle.PREFIX}.0.self_attn.q_proj.lora_B.weight"
    tensors[name] = tensors[name].astype(np.int32)


def narrower(tensors: dict[str, Any]) -> None:
    name = f"{lora_bundle.PREFIX}.0.self_attn.q_proj.lora_B.weight"
    tensors[name] = np.ascontiguousarray(tensors[name][:, :3])


def twice(tensors: dict[str, Any]) -> None:
    name = f"{lora_bundle.PREFIX}.0.self_attn.q_proj.lora_B.weight"
    tensors[name.replace("model.language_model.layers", "model.layers")] = tensors[name]


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        (halved, r"half of a pair"),
        (infinite, r"is no number"),
        (whole, r"are floats(.|\n)*I32"),
        (narrower, r"does not fit the model(.|\n)*\[4, 192\] and \[192, 4\]"),
        (twice, r"two tensors for one factor"),
    ],
)
def test_tensors_that_are_refused(
    tmp_path: Path, tensors: dict[str, Any], change: Callable[[dict[str, Any]], None], refusal: str
) -> None:
    change(tensors)
    with pytest.raises(CheckpointError, match=refusal):
        read_adapter(lora_bundle.write_adapter(tmp_path, tensors), manifest())


def test_a_rank_above_the_slots(tmp_path: Path) -> None:
    folder = lora_bundle.write_adapter(tmp_path, lora_bundle.factors(0, 5, PATHS[:1], 1), 5)
    with pytest.raises(CheckpointError, match=r"rank is larger(.|\n)*at most 4(.|\n)*--lora-slots 5"):
        read_adapter(folder, manifest())


def test_a_number_beyond_fp16(tmp_path: Path, tensors: dict[str, Any]) -> None:
    folder = lora_bundle.write_adapter(tmp_path, tensors, lora_alpha=1_000_000)
    read_adapter(folder, manifest())
    with pytest.raises(CheckpointError, match=r"beyond fp16(.|\n)*bf16"):
        read_adapter(folder, manifest(dtype="fp16"))


@pytest.mark.parametrize(
    ("first", "second", "alpha"), [(1e38, 1e38, 4.0), (1e-3, 1e34, 1_000_000), (1e10, 1e-10, 4.0), (1e6, 1e6, 4.0)]
)
@pytest.mark.filterwarnings("error")
def test_factors_that_overflow_once_scaled(tmp_path: Path, first: float, second: float, alpha: float) -> None:
    """Each is a number; scaled, or beside an input, they are none, and every answer ended in 500."""
    damaged = {
        name: values * 0 + np.float32(first if ".lora_A." in name else second)
        for name, values in lora_bundle.factors(0, 4, PATHS[:1], 1).items()
    }
    folder = lora_bundle.write_adapter(tmp_path, damaged, lora_alpha=alpha)
    for dtype in ("fp32", "bf16"):
        with pytest.raises(CheckpointError, match=r"factors overflow(.|\n)*at most 1e\+09(.|\n)*lora_alpha"):
            read_adapter(folder, manifest(dtype=dtype))


def test_a_pickle_is_named(tmp_path: Path, tensors: dict[str, Any]) -> None:
    folder = lora_bundle.write_adapter(tmp_path, tensors)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"adapter_model\.bin alone, a pickle(.|\n)*adapter_model\.safetensors"):
        read_adapter(folder, manifest())


def test_a_file_larger_than_the_slots(tmp_path: Path, tensors: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = lora_bundle.write_adapter(tmp_path, tensors)
    monkeypatch.setattr("luvc_export.bundle.adapters.peft_folder._HEADER_LIMIT", 0)
    with pytest.raises(CheckpointError, match=r"larger than the bundle's slots(.|\n)*rank 4"):
        read_adapter(folder, manifest())


@pytest.mark.parametrize("length", [0, 1, 2**40])
def test_a_header_of_another_length(tmp_path: Path, tensors: dict[str, Any], length: int) -> None:
    path = lora_bundle.write_adapter(tmp_path, tensors) / "adapter_model.safetensors"
    path.write_bytes(struct.pack("<Q", length) + path.read_bytes()[8:])
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        read_adapter(tmp_path, manifest())


@pytest.mark.parametrize(
    "change",
    [
        {"data_offsets": [0, 2**40]},
        {"data_offsets": [8, 0]},
        {"data_offsets": [-4, 0]},
        {"data_offsets": [0]},
        {"shape": [4]},
        {"shape": [True, 192]},
        {"shape": [2**62, 2**62]},
        {"shape": [0, 2**62], "data_offsets": [0, 0]},
        {"shape": "4"},
    ],
)
def test_places_beyond_the_file(tmp_path: Path, tensors: dict[str, Any], change: dict[str, Any]) -> None:
    path = lora_bundle.write_adapter(tmp_path, tensors) / "adapter_model.safetensors"
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header[next(iter(tensors))] |= change
    packed = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(packed)) + packed + data[8 + length :])
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        read_adapter(tmp_path, manifest())


def test_every_cut_is_refused(tmp_path: Path, tensors: dict[str, Any]) -> None:
    path = lora_bundle.write_adapter(tmp_path, tensors) / "adapter_model.safetensors"
    data = path.read_bytes()
    for cut in (0, 7, 8, 100, len(data) - 1):
        path.write_bytes(data[:cut])
        with pytest.raises(CheckpointError):
            read_adapter(tmp_path, manifest())


def test_a_bundle_without_slots(tmp_path: Path, tensors: dict[str, Any]) -> None:
    folder = lora_bundle.write_adapter(tmp_path, tensors)
    with pytest.raises(UsageError, match=r"no slots for adapters(.|\n)*--lora-slots"):
        read_adapter(folder, manifest(None))


@pytest.mark.parametrize("name", ["n" * 300, "n/" * 3000, "a\0b", "half \ud800"])
def test_names_that_no_file_can_have(name: str) -> None:
    with pytest.raises(UsageError, match="has a name that no file can have"):
        read_adapter(Path(name), manifest())


def test_hashes_tell_adapters_apart(tmp_path: Path, tensors: dict[str, Any]) -> None:
    one = read_adapter(lora_bundle.write_adapter(tmp_path / "a", tensors), manifest())
    same = read_adapter(lora_bundle.write_adapter(tmp_path / "b", tensors), manifest())
    scaled = read_adapter(lora_bundle.write_adapter(tmp_path / "c", tensors, lora_alpha=9), manifest())
    assert one.sha256 == same.sha256 != scaled.sha256 and replace(SLOTS, rank=9) != SLOTS


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        (["a"], "NAME=FOLDER"),
        (["=b"], "no name of an adapter"),
        (["a="], "NAME=FOLDER"),
        (["a:b=c"], "no name of an adapter"),
        (["a=b", "a=c"], "two adapters have one name"),
    ],
)
def test_names_of_a_command_line(words: list[str], refusal: str) -> None:
    assert named_folders(["a=b=c", "d=e"]) == {"a": Path("b=c"), "d": Path("e")}
    with pytest.raises(UsageError, match=refusal):
        named_folders(words)
