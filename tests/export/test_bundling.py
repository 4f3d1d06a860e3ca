"""Weights by reference: nothing copied, shards and half precision read where the checkpoint has them."""

from __future__ import annotations

import json
from pathlib import Path

import cut_checkpoint
import pytest
import torch
from safetensors.torch import save_file
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2VLImageProcessorPil

from luvc_export import export_bundle, load_bundle, make_plan
from luvc_export.bundle import graph_trust
from luvc_export.demo import CHECKPOINT, IMAGE_SIZE
from luvc_export.demo.questions import KINDS, cases
from luvc_export.errors import BundleError, LuvcError, UsageError

LAYERS = BLOCKS = 2


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first layers and encoder blocks of the bundled checkpoint in bf16, in two shards."""
    folder = cut_checkpoint.write(tmp_path_factory.mktemp("sharded"), LAYERS, BLOCKS)
    tensors = {name: tensor.bfloat16() for name, tensor in cut_checkpoint.tensors(LAYERS, BLOCKS).items()}
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


def test_a_referenced_bf16_sharded_checkpoint_gives_the_logits_of_transformers(bundle: Path, sharded: Path) -> None:
    assert sum(path.stat().st_size for path in bundle.iterdir()) < 2 * 2**20
    session = load_bundle(bundle, "cpu", threads=1)
    assert graph_trust.known(session.bundle, None, graph_trust.OWN), "what is exported here runs in no helper first"
    stored = {tensor.dtype for tensor in session.bundle.manifest.weights.tensors.values()}
    assert stored == {"bfloat16"} and session.bundle.manifest.weights.folder == str(sharded.resolve())
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(sharded, dtype=torch.float32).eval()
    processor = Qwen2VLImageProcessorPil(image_mean=[0.5] * 3, image_std=[0.5] * 3, rescale_factor=1 / 255)
    image = session.bundle.manifest.prompt.image_token_id
    asked = [("where is 7?", []), *((case.prompt, list(case.images)) for case in cases("heldout", len(KINDS)))]
    for prompt, pictures in asked:
        request = session.prepare(pictures or None, prompt)
        ours = session.default.run(
            request.token_ids, session.default.encode_images(request.images), all_logits=True
        ).logits[0]
        whole = [t for token in request.token_ids for t in [token] * (session.plan.units if token == image else 1)]
        ids = torch.tensor([whole])
        vision = processor(pictures, return_tensors="pt") if pictures else {}
        with torch.no_grad():
            theirs = model(input_ids=ids, mm_token_type_ids=(ids == image).int(), **vision).logits[0, ids[0] != image]
        assert theirs.std() > 1
        torch.testing.assert_close(torch.from_numpy(ours), theirs, atol=1e-4, rtol=0)
    answer = session.generate(pictures, prompt, max_new_tokens=1)
    assert answer.token_ids == (int(theirs[-1].argmax()),)


def test_a_shard_that_went_away_is_named(bundle: Path, sharded: Path) -> None:
    shard = sharded / "model-00002-of-00002.safetensors"
    hidden = shard.rename(sharded / "gone")
    try:
        with pytest.raises(BundleError, match="model-00002-of-00002"):
            load_bundle(bundle, "cpu", threads=1).generate(None, "where is 7?", max_new_tokens=1)
    finally:
        hidden.rename(shard)


@pytest.mark.slow(
    beside="export/test_bundling.py::test_a_referenced_bf16_sharded_checkpoint_gives_the_logits_of_transformers"
)
def test_graphs_alone_refuse_to_run_and_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "config.json").write_text(json.dumps(cut_checkpoint.config(1, 1)))
    plan = make_plan(str(tmp_path / "config"), "none", image_size=IMAGE_SIZE)
    bundle = export_bundle(str(tmp_path / "config"), tmp_path / "b", plan, image_size=IMAGE_SIZE, weights="none")
    assert bundle.manifest.weights.mode == "none" and not (tmp_path / "b" / "weights").exists()
    with pytest.raises(LuvcError, match="weights"):
        load_bundle(tmp_path / "b", "cpu").generate(None, "where is 7?")


def test_nothing_to_export() -> None:
    with pytest.raises(UsageError, match="nothing to export"):
        export_bundle(str(CHECKPOINT), "unused", {}, image_size=IMAGE_SIZE)
