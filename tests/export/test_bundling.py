"""Weights by reference: nothing copied, shards and half precision read where the checkpoint has them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from luvc_export import export_bundle, load_bundle, make_plan
from luvc_export.demo import CHECKPOINT, IMAGE_SIZE
from luvc_export.demo.questions import KINDS, cases
from luvc_export.errors import BundleError, LuvcError, UsageError


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled checkpoint in bf16, in two shards."""
    folder = tmp_path_factory.mktemp("sharded")
    for path in CHECKPOINT.iterdir():
        if path.suffix != ".safetensors":
            shutil.copyfile(path, folder / path.name)
    tensors = {name: tensor.bfloat16() for name, tensor in load_file(CHECKPOINT / "model.safetensors").items()}
    names = sorted(tensors)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, members in shards.items():
        save_file({name: tensors[name].contiguous() for name in members}, folder / file)
    index = {"metadata": {}, "weight_map": {name: file for file, members in shards.items() for name in members}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture(scope="module")
def bundle(sharded: Path) -> Path:
    folder = sharded.parent / "referenced"
    plan = make_plan(str(sharded), "none", image_size=IMAGE_SIZE)
    export_bundle(str(sharded), folder, plan, image_size=IMAGE_SIZE, text_capacity=256, weights="reference")
    return folder


def test_a_referenced_bf16_sharded_checkpoint_answers(bundle: Path, sharded: Path) -> None:
    assert sum(path.stat().st_size for path in bundle.iterdir()) < 2 * 2**20
    session = load_bundle(bundle, threads=1)
    asked = list(cases("heldout", len(KINDS)))
    right = sum(session.generate(c.images, c.prompt, max_new_tokens=8).text == c.answer for c in asked)
    assert right >= len(KINDS) - 2
    stored = {tensor.dtype for tensor in session.bundle.manifest.weights.tensors.values()}
    assert stored == {"bfloat16"} and session.bundle.manifest.weights.folder == str(sharded.resolve())
    from transformers import Qwen2_5_VLForConditionalGeneration

    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(sharded, dtype=torch.float32).eval()
    request = session.prepare(None, "where is 7?")
    ours = session.run(request.token_ids, all_logits=True).logits[0]
    with torch.no_grad():
        theirs = model(input_ids=torch.tensor([list(request.token_ids)])).logits[0]
    torch.testing.assert_close(torch.from_numpy(ours), theirs, atol=1e-4, rtol=0)


def test_a_shard_that_went_away_is_named(bundle: Path, sharded: Path) -> None:
    shard = sharded / "model-00002-of-00002.safetensors"
    hidden = shard.rename(sharded / "gone")
    try:
        with pytest.raises(BundleError, match="model-00002-of-00002"):
            load_bundle(bundle, threads=1).generate(None, "where is 7?", max_new_tokens=1)
    finally:
        hidden.rename(shard)


def test_graphs_alone_refuse_to_run_and_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config").mkdir()
    config = json.loads((CHECKPOINT / "config.json").read_text())
    config["text_config"] |= {"num_hidden_layers": 1, "layer_types": ["full_attention"]}
    config["vision_config"] |= {"depth": 1, "fullatt_block_indexes": [0]}
    (tmp_path / "config" / "config.json").write_text(json.dumps(config))
    plan = make_plan(str(tmp_path / "config"), "none", image_size=IMAGE_SIZE)
    made = export_bundle(str(tmp_path / "config"), tmp_path / "b", plan, image_size=IMAGE_SIZE, weights="none")
    assert made.manifest.weights.mode == "none" and not (tmp_path / "b" / "weights").exists()
    with pytest.raises(LuvcError, match="weights"):
        load_bundle(tmp_path / "b").generate(None, "where is 7?")


def test_nothing_to_export() -> None:
    with pytest.raises(UsageError, match="nothing to export"):
        export_bundle(str(CHECKPOINT), "unused", {}, image_size=IMAGE_SIZE)
