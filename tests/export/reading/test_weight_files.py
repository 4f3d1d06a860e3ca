"""Several files of weights in one folder: those are read that transformers reads, and what differs is told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from luvc_export.demo import CHECKPOINT
from luvc_export.errors import CheckpointError, UsageError
from luvc_export.export import weights
from luvc_export.export.checkpoint import Checkpoint, open_checkpoint

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(CHECKPOINT, tmp_path / "checkpoint"))


def sharded(folder: Path, change: float, index: str = INDEX) -> None:
    """Two shards and their index beside what is there, norms of other values."""
    tensors = load_file(folder / SINGLE)
    names, place = sorted(tensors), {}
    for number, part in enumerate((names[::2], names[1::2])):
        file = f"part-{number}.safetensors"
        save_file({name: tensors[name] + change * ("norm" in name) for name in part}, folder / file, {"format": "pt"})
        place |= dict.fromkeys(part, file)
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": place}))


def read(checkpoint: Checkpoint) -> torch.Tensor:
    """All norms as we read them."""
    model = weights.skeleton(checkpoint, "fp32").model
    parts = [item for item in sorted(weights.stored(model, checkpoint).items()) if "norm" in item[0]]
    values = []
    for _, one in parts:
        data = one.file.read_bytes()[one.offset : one.offset + one.bytes]
        kind = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[one.dtype]
        values.append(torch.frombuffer(bytearray(data), dtype=kind).float())
    return torch.cat(values)


def theirs(folder: Path) -> torch.Tensor:
    """The same as transformers reads them."""
    model: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype="auto", local_files_only=True)
    named = sorted((name, value) for name, value in model.state_dict().items() if "norm" in name)
    return torch.cat([value.detach().float().flatten() for _, value in named])


def test_a_single_file_beside_an_index(folder: Path) -> None:
    before = read(open_checkpoint(str(folder)))
    sharded(folder, 1.0)
    checkpoint = open_checkpoint(str(folder))
    assert torch.equal(read(checkpoint), theirs(folder)) and torch.equal(read(checkpoint), before)
    (note,) = checkpoint.notes
    assert note.startswith("model.safetensors is read, as transformers does; the shards of the index beside it hold")
    assert "tensors, first " in note and note.endswith("remove the older of the two")


def test_shards_that_say_the_same_are_no_news(folder: Path) -> None:
    sharded(folder, 0.0)
    assert open_checkpoint(str(folder)).notes == ()
    (folder / SINGLE).unlink()
    assert torch.equal(read(open_checkpoint(str(folder))), theirs(folder))


def test_an_index_whose_shards_are_gone(folder: Path) -> None:
    """Beside a single file they are not missed; alone they are, by name."""
    sharded(folder, 1.0)
    (folder / "part-1.safetensors").unlink()
    checkpoint = open_checkpoint(str(folder))
    assert torch.equal(read(checkpoint), theirs(folder))
    assert "the index beside it cannot be: a weight file of the checkpoint is missing" in checkpoint.notes[0]
    (folder / SINGLE).unlink()
    with pytest.raises(CheckpointError, match=r"a weight file of the checkpoint is missing(.|\n)*part-1\.safetensors"):
        open_checkpoint(str(folder))


@pytest.mark.parametrize("name", ["other.safetensors", "other.safetensors.index.json"])
def test_the_file_that_the_config_names(folder: Path, name: str) -> None:
    sharded(folder, 1.0, "other.safetensors.index.json")
    save_file({k: v + 2 * ("norm" in k) for k, v in load_file(folder / SINGLE).items()}, folder / "other.safetensors")
    before = read(open_checkpoint(str(folder)))
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"transformers_weights": name}))
    checkpoint = open_checkpoint(str(folder))
    after = read(checkpoint)
    assert torch.equal(after, theirs(folder)) and not torch.equal(after, before)
    (note,) = checkpoint.notes  # it said nothing
    assert note.startswith(f"{name} is read, as transformers does; {SINGLE} beside it holds other weights, ")
    save_file({**load_file(folder / SINGLE)}, folder / "other.safetensors")
    config.write_text(json.dumps(json.loads(config.read_text()) | {"transformers_weights": "other.safetensors"}))
    assert open_checkpoint(str(folder)).notes == ()


def test_doubles_are_copied_as_transformers_reads_them_in_fp32(folder: Path, tmp_path: Path) -> None:
    """They were refused; no float is among them, so each is rounded."""
    doubles = {name: one.double() * (1 + 1e-9) for name, one in load_file(folder / SINGLE).items()}
    save_file(doubles, folder / SINGLE, {"format": "pt"})
    checkpoint = open_checkpoint(str(folder))
    tensors = weights.stored(weights.skeleton(checkpoint, "fp32").model, checkpoint)
    places = weights.copy_plan(tensors)
    weights.write_copy(tmp_path, tensors, places, lambda count: None)
    data = bytearray((tmp_path / weights.WEIGHTS_FILE).read_bytes())
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    assert {one.dtype for one in places.values()} == {"float32"}
    for name, right in model.state_dict().items():
        if name in places:
            own = torch.frombuffer(data, dtype=torch.float32, offset=places[name].offset, count=right.numel())
            assert torch.equal(own, right.flatten())
    assert len(data) < (folder / SINGLE).stat().st_size < 2.2 * len(data)
    with pytest.raises(UsageError, match=r"stored in F64 are copied in fp32(.|\n)*--weights reference(.|\n)*first "):
        weights.reference_plan(folder, tensors)


@pytest.mark.parametrize("name", ["../other.safetensors", "pytorch_model.bin", 3, "a/b.safetensors"])
def test_a_name_that_is_none(folder: Path, name: Any) -> None:
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"transformers_weights": name}))
    refusal = r"the config names no file of weights(.|\n)*transformers_weights(.|\n)*take the field out"
    with pytest.raises(CheckpointError, match=refusal):
        open_checkpoint(str(folder))
