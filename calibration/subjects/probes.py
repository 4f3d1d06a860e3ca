"""Look inside a bundle's decoder: a copy of its graphs whose layers' entering hidden states are outputs too."""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
import weakref
from pathlib import Path

import onnx

from luvc_export.bundle import Bundle, record
from luvc_export.manifest import PlanEntry


def hidden_name(layer: int) -> str:
    """Output that holds the hidden state entering ``layer``."""
    return f"hidden.{layer}"


def add_hidden_outputs(model: onnx.ModelProto, layers: int) -> bool:
    """Make what each layer's first norm reads an output ``hidden.N``; False, and nothing changed, if one is not found.

    Norms are found by their weight: its name is the checkpoint's, ``...layers.N.input_layernorm.weight``, perhaps
    with a cast's suffix.
    """
    sources: dict[int, str] = {}
    for node in model.graph.node:
        if node.op_type != "RMSNormalization" or len(node.input) < 2:
            continue
        for layer in range(layers):
            if f"layers.{layer}.input_layernorm.weight" in node.input[1] and "visual" not in node.input[1]:
                # a prune reads the same norm on visual tokens alone: the layer's own comes after it
                sources[layer] = node.input[0]
    if len(sources) < layers:
        return False
    kind = next(item for item in model.graph.input if item.name == "visual_embeds").type.tensor_type.elem_type
    for layer, source in sources.items():
        model.graph.node.append(onnx.helper.make_node("Identity", [source], [hidden_name(layer)]))
        model.graph.output.append(onnx.helper.make_tensor_value_info(hidden_name(layer), kind, None))
    return True


def probed(bundle: Bundle, entry: PlanEntry, layers: int) -> Bundle:
    """A copy of ``bundle`` in a temporary folder (removed with the object) whose decoders of ``entry`` are probed.

    Weights are hard links where the file system has them. Graphs whose norms are not found stay as they are.
    """
    folder = Path(tempfile.mkdtemp(prefix="luvc-parity-"))
    files = dict(bundle.manifest.files)
    for name in files:
        source, target = bundle.folder / name, folder / name
        if name in (entry.decoder, entry.decoder_debug):
            model = onnx.load(source, load_external_data=False)
            add_hidden_outputs(model, layers)
            onnx.save(model, target)
            files[name] = record(target)
        else:
            try:
                os.link(source, target)
            except OSError:
                shutil.copyfile(source, target)
    copy = Bundle(folder, dataclasses.replace(bundle.manifest, files=files))
    weakref.finalize(copy, shutil.rmtree, folder, True)
    return copy
