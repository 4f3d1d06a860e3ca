"""The first layers of the bundled model with slots for adapters, the same without, adapters, and one merged in."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cut_checkpoint
import numpy as np
import pytest
from made_once import made_once
from numpy.typing import NDArray

from luvc_export import export_bundle, make_plan
from luvc_export.demo import IMAGE_SIZE

LAYERS, HIDDEN, KEYS, INNER, RANK = 2, 192, 64, 512, 8
PREFIX = "base_model.model.model.language_model.layers"
#: Inputs and outputs of the products that adapters change here, by path in a layer.
SHAPES = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (HIDDEN, KEYS),
    "self_attn.v_proj": (HIDDEN, KEYS),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (HIDDEN, INNER),
    "mlp.up_proj": (HIDDEN, INNER),
    "mlp.down_proj": (INNER, HIDDEN),
}
#: Name, rank and paths of the adapters: two of all products, one of two.
ADAPTERS = {"loud": (4, tuple(SHAPES)), "terse": (8, tuple(SHAPES)), "odd": (2, ("self_attn.v_proj", "mlp.down_proj"))}


def factors(seed: int, rank: int, paths: Sequence[str], layers: int = LAYERS) -> dict[str, NDArray[np.float32]]:
    """Tensors as peft names them, large enough to change answers."""
    random = np.random.default_rng(seed)
    tensors = {}
    for layer in range(layers):
        for path in paths:
            entering, leaving = SHAPES[path]
            a = random.standard_normal((rank, entering)) / entering**0.5
            b = random.standard_normal((leaving, rank)) * 0.15
            tensors[f"{PREFIX}.{layer}.{path}.lora_A.weight"] = a.astype(np.float32)
            tensors[f"{PREFIX}.{layer}.{path}.lora_B.weight"] = b.astype(np.float32)
    return tensors


def write_adapter(folder: Path, tensors: Mapping[str, Any], rank: int = 4, **config: Any) -> Path:
    """A peft folder; ``config`` changes fields of its config."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors), folder / "adapter_model.safetensors")
    modules = rf".*language_model.*\.({'|'.join(sorted({name.split('.')[-3] for name in tensors}))})"
    plain = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "bias": "none", "target_modules": modules}
    (folder / "adapter_config.json").write_text(json.dumps(plain | config))
    return folder


def lora_folder(cache: Path) -> Path:
    """``slots``, ``plain`` and ``merged`` (with ``loud`` in its weights) below a folder, and the adapters' folders."""
    return made_once(cache, Path(__file__), _make)


def _make(folder: Path) -> None:
    from safetensors.torch import save_file

    for seed, (name, (rank, paths)) in enumerate(ADAPTERS.items()):
        write_adapter(folder / name, factors(seed, rank, paths), rank)
    with TemporaryDirectory() as model_folder:
        checkpoint = cut_checkpoint.write(Path(model_folder), LAYERS, 2)
        path = checkpoint / "config.json"  # else peft's sum is rounded to the type that it says
        path.write_text(path.read_text().replace('"float16"', '"float32"'))
        whole = {name: tensor.float() for name, tensor in cut_checkpoint.tensors(LAYERS, 2).items()}
        save_file(whole, checkpoint / "model.safetensors", {"format": "pt"})
        plan = make_plan(str(checkpoint), "thirds", image_size=IMAGE_SIZE)
        options: dict[str, Any] = {"image_size": IMAGE_SIZE, "text_capacity": 256}
        with graphs_once():
            export_bundle(str(checkpoint), folder / "slots", plan, lora_slots=RANK, **options)
            export_bundle(str(checkpoint), folder / "plain", plan, **options)
            export_bundle(str(checkpoint), folder / "merged", plan, lora=str(folder / "loud"), **options)


@contextmanager
def graphs_once() -> Iterator[None]:
    """Of one plan a vision graph is traced once, and a decoder once with slots and once without.

    Weights are taken out of a graph after it is traced, so those of another model do as well.
    """
    import onnx_ir as ir

    from luvc_export.export import trace
    from luvc_export.export.llm.lora_slots import SlottedLayers

    kept: dict[tuple[str, bool], Any] = {}

    def once(name: str, honest: Callable[..., Any]) -> Callable[..., Any]:
        def traced(*arguments: Any) -> Any:
            key = name, isinstance(arguments[-1], SlottedLayers)
            if key not in kept:
                kept[key] = ir.to_proto(honest(*arguments))
            return ir.from_proto(kept[key])

        return traced

    with pytest.MonkeyPatch.context() as patch:
        for name in ("trace_vision", "trace_decoder"):
            patch.setattr(trace, name, once(name, getattr(trace, name)))
        yield
