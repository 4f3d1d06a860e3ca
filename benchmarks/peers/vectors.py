"""Vectors of new pages by luvc-export, by transformers and by OpenVINO GenAI's EmbeddingPipeline, one a call.

``peer`` is whose, ``many`` asks for a vector of every token (ColQwen2's form), ``size`` is the page's height and width.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import common
import numpy as np

#: Text tokens beside a page: those of the chat template.
TEXT = 21
WIDTH = 128


def page(run: int, options: dict[str, Any]) -> np.ndarray:
    """Noise, uint8 [H, W, 3], another in each run."""
    return np.random.default_rng(run).integers(0, 256, (*options["size"], 3), np.uint8)


def bundle(options: dict[str, Any]) -> Path:
    """The plan's bundle."""
    high, wide = options["size"]
    return Path(options["out"]) / f"{'many' if options.get('many') else 'one'}-{options['plan']}-{high}x{wide}"


def prepare(options: dict[str, Any]) -> None:
    """Write ColQwen2's checkpoint, the bundle, or OpenVINO's graphs without a head over the vocabulary."""
    if options.get("many") and not Path(options["many_checkpoint"]).is_dir():
        write_colqwen2(Path(options["checkpoint"]), Path(options["many_checkpoint"]))
    if options["peer"] == "luvc" and not bundle(options).is_dir():
        import luvc_export

        checkpoint = options["many_checkpoint" if options.get("many") else "checkpoint"]
        how = {"task": "embed-many" if options.get("many") else "embed", "fit": "stretch", "weights": "reference"}
        size = tuple(options["size"])
        luvc_export.export_bundle(checkpoint, bundle(options), options["plan"], image_size=size, **how)
    if options["peer"] == "openvino" and not (folder := headless(options)).is_dir():
        import openvino

        whole = folder.with_name("openvino")
        model = openvino.Core().read_model(whole / "openvino_language_model.xml")
        product = model.output("logits").node.input_value(0).node
        rows = openvino.opset13.result(product.input_value(0))
        rows.output(0).tensor.set_names({"logits"})
        shutil.copytree(whole, folder, ignore=shutil.ignore_patterns("openvino_language_model.*"))
        openvino.save_model(
            openvino.Model([rows], model.get_sinks(), model.get_parameters()),
            folder / "openvino_language_model.xml",
            compress_to_fp16=False,
        )


def headless(options: dict[str, Any]) -> Path:
    """OpenVINO's graphs whose output ``logits`` is the rows that a head would read, as EmbeddingPipeline pools them."""
    return Path(options["out"]) / "openvino-rows"


def write_colqwen2(source: Path, target: Path) -> None:
    """A ColQwen2 with the weights of a Qwen2.5-VL and a random projection."""
    import torch
    from safetensors.torch import load_file, save_file

    target.mkdir()
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    own = {"model_type": "colqwen2", "architectures": ["ColQwen2ForRetrieval"], "embedding_dim": WIDTH}
    outer = {**own, "vlm_config": config, "torch_dtype": "bfloat16"}
    (target / "config.json").write_text(json.dumps(outer), encoding="utf-8")
    for path in [*source.glob("tokenizer*"), source / "preprocessor_config.json"]:
        shutil.copy(path, target)
    tensors = {}
    for path in sorted(source.glob("*.safetensors")):
        for name, tensor in load_file(path).items():
            if not name.startswith("lm_head"):
                tensors[f"vlm.{name.removeprefix('model.')}"] = tensor
    if not any(name.startswith("vlm.language_model") for name in tensors):  # as transformers 4 named them
        tensors = {name if ".visual." in name else name.replace("vlm.", "vlm.language_model.", 1): value
                   for name, value in tensors.items()}  # fmt: skip
    width = config["text_config"]["hidden_size"]
    tensors["embedding_proj_layer.weight"] = (torch.randn(WIDTH, width) / width**0.5).bfloat16()
    tensors["embedding_proj_layer.bias"] = torch.zeros(WIDTH).bfloat16()
    save_file(tensors, target / "model.safetensors", {"format": "pt"})


def luvc(options: dict[str, Any]) -> Any:
    """Pages as they lie, opened and fitted in the time."""
    import luvc_export

    session = luvc_export.load_bundle(bundle(options), backend="openvino", plan=options["plan"])
    embed = session.embed_many if options.get("many") else session.embed
    version = f"luvc-export {luvc_export.__version__}, {session.backend.name} {session.backend.arithmetic}"
    return version, lambda run: embed(images=[page(run, options)])[0]


def transformers(options: dict[str, Any]) -> Any:
    """Pixels prepared before: its time leaves that out."""
    import torch
    import transformers as library

    high, wide = (side // 14 for side in options["size"])
    name = "ColQwen2ForRetrieval" if options.get("many") else "Qwen2_5_VLForConditionalGeneration"
    checkpoint = options["many_checkpoint" if options.get("many") else "checkpoint"]
    loaded = getattr(library, name).from_pretrained(checkpoint, dtype=torch.bfloat16, attn_implementation="sdpa")
    model = loaded.eval() if options.get("many") else loaded.eval().model
    prepared: dict[int, Any] = {}

    def ready(run: int) -> None:
        ids = common.text_ids(run)[:TEXT]
        whole = torch.tensor([[*ids[:9], *[common.IMAGE_TOKEN] * (high * wide // 4), *ids[9:]]])
        torch.manual_seed(run)
        pixels = torch.randn(high * wide, 3 * 2 * 14 * 14, dtype=torch.bfloat16)
        prepared[run] = {"input_ids": whole, "attention_mask": torch.ones_like(whole)}
        prepared[run] |= {"pixel_values": pixels, "image_grid_thw": torch.tensor([[1, high, wide]])}
        if options.get("many"):
            prepared[run]["pixel_values"] = pixels[None]
        else:
            prepared[run]["mm_token_type_ids"] = (whole == common.IMAGE_TOKEN).int()

    def embed(run: int) -> Any:
        with torch.inference_mode():
            out = model(**prepared.pop(run))
            if options.get("many"):
                return out.embeddings[0].float().numpy()
            return torch.nn.functional.normalize(out.last_hidden_state[0, -1].float(), dim=-1).numpy()

    for run in range(1 + options["runs"]):
        ready(run)
    return f"transformers {library.__version__}, torch {torch.__version__}, bf16, SDPA", embed


def openvino(options: dict[str, Any]) -> Any:
    """EmbeddingPipeline as it comes, by the last token."""
    import openvino as library
    import openvino_genai

    kind = openvino_genai.TextEmbeddingPipeline.PoolingType.LAST_TOKEN
    pipe = openvino_genai.EmbeddingPipeline(str(headless(options)), "CPU", pooling_type=kind)

    def embed(run: int) -> Any:
        vectors = pipe.embed("a page", images=[library.Tensor(page(run, options)[None])]).embeddings
        return np.array(vectors[0].data if isinstance(vectors, list) else vectors.data, np.float32).reshape(-1)

    return f"openvino-genai {openvino_genai.__version__.partition('-')[0]}, as it comes", embed


def times(options: dict[str, Any]) -> dict[str, Any]:
    """Seconds from nothing to the first vector, and of each page after it; peaks of the process."""
    begin = perf_counter()
    version, embed = {"luvc": luvc, "transformers": transformers, "openvino": openvino}[options["peer"]](options)
    vectors, first = [embed(0)], perf_counter() - begin
    each = []
    for run in range(1, 1 + options["runs"]):
        begin = perf_counter()
        vectors.append(embed(run))
        each.append(perf_counter() - begin)
        if not np.isfinite(vectors[-1]).all() or np.array_equal(vectors[-1], vectors[-2]):
            sys.exit("a page's vector is not finite, or that of the page before")
    shape = [*vectors[-1].shape]
    return {"version": version, "first_s": first, "page_s": each, "shape": shape, "peak_gib": common.peak_gib()}


if __name__ == "__main__":
    common.main(prepare, times)
