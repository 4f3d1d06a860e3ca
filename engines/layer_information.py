"""Layer information beside an engine: what the engine says where it can be loaded, else what was given to the builder.

An engine built for another GPU, or without one, cannot be loaded here; then the layers are the parsed network's, and
``source`` says so.
"""

from __future__ import annotations

import json
import re
from typing import Any

_ACTIVATIONS = re.compile(r"Total Activation Memory: (\d+) bytes")


def of_network(network: Any) -> dict[str, Any]:
    """Layers before optimisation: name, type, and each output's name, dtype and shape (-1: open)."""
    layers = []
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        outputs = [layer.get_output(index) for index in range(layer.num_outputs)]
        described = [
            {"name": out.name, "dtype": out.dtype.name, "shape": None if _unknown(out) else list(out.shape)}
            for out in outputs
        ]
        layers.append({"name": layer.name, "type": layer.type.name, "outputs": described})
    return {"source": "network", "layers": layers}


def unread(network: Any) -> list[str]:
    """Inputs and layers whose results nothing reads: the parser dropped an input of a node without an error."""
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    read = {network.get_output(index).name for index in range(network.num_outputs)}
    for layer in layers:
        tensors = (layer.get_input(index) for index in range(layer.num_inputs))
        read |= {tensor.name for tensor in tensors if tensor is not None}
    inputs = (network.get_input(index).name for index in range(network.num_inputs))
    dropped = [f"input {name}" for name in inputs if name not in read]
    for layer in layers:
        if not any(layer.get_output(index).name in read for index in range(layer.num_outputs)):
            dropped.append(f"{layer.type.name} ({layer.name})")
    return dropped


def of_engine(trt: Any, engine: Any) -> dict[str, Any]:
    """Layers after optimisation, as the engine inspector has them."""
    text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    return {"source": "engine", "layers": json.loads(text).get("Layers", [])}


def activation_bytes(lines: list[tuple[str, str]]) -> int | None:
    """Device memory of one execution context, from the builder's log; None where the log does not say."""
    sizes = [int(match[1]) for _, line in lines if (match := _ACTIVATIONS.search(line))]
    return sizes[-1] if sizes else None


def _unknown(tensor: Any) -> bool:
    """TensorRT gives shapes it cannot know a negative rank."""
    try:
        return len(tensor.shape) < 0
    except ValueError:
        return True
