"""What every pass uses: a graph under surgery, constants that stay lazy, structural look-ups, new nodes.

onnx-graphsurgeon drops model and node metadata; ``Surgery`` carries them across by hand. New nodes say which pass
made them (``luvc.pass``).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx_graphsurgeon.ir.tensor import LazyValues
from onnx_graphsurgeon.logger import G_LOGGER

from luvc_export.bundle import codes
from luvc_export.core.operators import CONTRIB_DOMAIN
from luvc_export.core.operators import DOMAIN as PLUGIN_DOMAIN
from luvc_export.core.plan import Plan
from luvc_export.core.target import Precision, TargetSpec
from luvc_export.errors import CheckFailed
from luvc_export.export.surgeon import node_order

#: Domain of fused nodes, which carry ONNX bodies. Plugin nodes, which carry none, are of another.
DOMAIN = "luvc"
#: TensorRT's own operators, which ONNX files may hold (``TRT_FP4DynamicQuantize``).
TENSORRT_DOMAIN = "trt"
PLAN_KEY = "luvc.plan"
#: Operators that only pass on or reshape what a weight file holds: a back-end folds them when it loads.
WEIGHT_OPS = ("Cast", "Transpose", "Concat", "Reshape")

#: Quantised element types numpy has no name for: graphsurgeon would turn their constants into floats by reading them.
_NARROW = (onnx.TensorProto.FLOAT8E4M3FN, onnx.TensorProto.INT4, onnx.TensorProto.FLOAT4E2M1)

Part = Literal["vision", "decoder"]


@dataclass
class Surgery:
    """One graph on the table.

    Attributes:
        graph: The graph; passes change it in place.
        target: What the back-end can do.
        plan: What was planned.
        precision: Wanted arithmetic.
        text_capacity: Text rows of caches of fixed capacity.
        groups: Images, or groups of them that share a budget, of such caches.
        functions: ONNX function bodies by operator name.
        reasons: Why the running pass left something alone.
    """

    graph: gs.Graph
    target: TargetSpec
    plan: Plan
    precision: Precision = "fp32"
    text_capacity: int | None = None
    groups: int = 1
    functions: dict[str, onnx.FunctionProto] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)
    running: str = ""
    _props: list[tuple[str, str]] = field(default_factory=list)
    _node_props: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    _made: Counter[str] = field(default_factory=Counter)
    _taken: set[str] = field(default_factory=set)

    @classmethod
    def open(cls, model: onnx.ModelProto, target: TargetSpec, precision: Precision = "fp32") -> Surgery:
        """Import a traced model. External weights are not read.

        What its metadata says is to be written for a target (``bundle.codes``) is forgotten: a pass says it anew, and a
        stranger's graph says nothing of it.

        Raises:
            CheckFailed: The model carries no plan.
        """
        props = [(item.key, item.value) for item in model.metadata_props if item.key != codes.KEY]
        if PLAN_KEY not in dict(props):
            raise CheckFailed("the graph carries no plan", where=f"metadata {PLAN_KEY}", fix="export the bundle again")
        surgery = cls(gs.Graph(), target, Plan.from_json(json.loads(dict(props)[PLAN_KEY])), precision)
        surgery._props = props
        surgery.functions = {function.name: function for function in model.functions}
        surgery.reload(model)
        return surgery

    @property
    def part(self) -> Part:
        """Which half of the model this is, told by its inputs."""
        return "vision" if any(tensor.name == "image" for tensor in self.graph.inputs) else "decoder"

    def reload(self, model: onnx.ModelProto) -> None:
        """Replace the graph by ``model``'s, keeping what is known of metadata."""
        for node in model.graph.node:
            self._taken |= {node.name, *node.input, *node.output}
            if node.metadata_props:
                self._node_props[node.output[0]] = [(item.key, item.value) for item in node.metadata_props]
        bare = onnx.ModelProto()
        bare.CopyFrom(model)
        del bare.functions[:]
        with _quiet():
            self.graph = gs.import_onnx(bare)

    def close(self) -> onnx.ModelProto:
        """Export with functions, versions and metadata in place."""
        node_order.tidy(self.graph)
        with _quiet():
            model: onnx.ModelProto = gs.export_onnx(self.graph, do_type_check=False)
        model.ir_version = self.target.ir_version
        used = {node.op_type for node in model.graph.node if node.domain == DOMAIN}
        used |= {node.op_type for name in used for node in self.functions[name].node if node.domain == DOMAIN}
        model.functions.extend(function for name, function in self.functions.items() if name in used)
        del model.opset_import[:]
        model.opset_import.append(onnx.helper.make_opsetid("", self.graph.opset))
        for domain in (DOMAIN, PLUGIN_DOMAIN, TENSORRT_DOMAIN, CONTRIB_DOMAIN):
            if any(node.domain == domain for node in model.graph.node):
                model.opset_import.append(onnx.helper.make_opsetid(domain, 1))
        for function in model.functions:
            del function.opset_import[:]
            function.opset_import.append(onnx.helper.make_opsetid("", self.graph.opset))
            function.opset_import.append(onnx.helper.make_opsetid(DOMAIN, 1))
        for key, value in self._props:
            model.metadata_props.add(key=key, value=value)
        for node in model.graph.node:
            for key, value in self._node_props.get(node.output[0], ()):
                node.metadata_props.add(key=key, value=value)
        return model

    def size(self) -> int:
        """``size`` of what ``close`` gives; nodes that nothing reads go and the others are put in order."""
        node_order.tidy(self.graph)
        done, counted = set[int](), 0
        for node in self.graph.nodes:
            folded = all(isinstance(item, gs.Constant) or id(item) in done for item in node.inputs)
            if node.op == "Constant" or (node.op in WEIGHT_OPS and folded):
                done |= {id(item) for item in node.outputs}
            elif node.op != "Identity":
                counted += 1
        return counted

    def say(self, key: str, value: str, closed: onnx.ModelProto | None = None) -> None:
        """Set a metadata property of the model, and of what ``close`` gave."""
        self._props = [item for item in self._props if item[0] != key] + [(key, value)]
        if closed is not None:
            onnx.helper.set_model_props(closed, dict(self._props))

    def skip(self, reason: str) -> None:
        """Note once why something was left alone."""
        if reason not in self.reasons:
            self.reasons.append(reason)

    def name(self, hint: str) -> str:
        """A name no tensor or node has."""
        while True:
            self._made[hint] += 1
            name = f"luvc.{self.running}.{hint}.{self._made[hint]}"
            if name not in self._taken:  # an earlier surgery's names are still there
                return name

    def constant(self, values: Any, hint: str = "const", dtype: Any = np.int64) -> gs.Constant:
        """A small constant of the graph itself."""
        return gs.Constant(self.name(hint), np.array(values, dtype, order="C"))

    def emit(
        self,
        op: str,
        inputs: Sequence[Any],
        like: Sequence[gs.Tensor] | None = None,
        count: int = 1,
        domain: str | None = None,
        **attrs: Any,
    ) -> list[gs.Variable]:
        """Append a node; its outputs take dtype and shape of ``like`` where given."""
        outputs = [gs.Variable(self.name(op.lower())) for _ in range(len(like) if like else count)]
        for output, model in zip(outputs, like or (), strict=False):
            output.dtype, output.shape = model.dtype, model.shape
        tensors = [item if isinstance(item, gs.Tensor) else self.constant(item) for item in inputs]
        node = gs.Node(op, self.name(op), attrs=attrs, inputs=tensors, outputs=outputs, domain=domain)
        self.graph.nodes.append(node)
        self._node_props[outputs[0].name] = [("luvc.pass", self.running)]
        return outputs

    def typed(
        self, op: str, inputs: Sequence[Any], dtype: Any, shape: Sequence[Any] | None = None, **attrs: Any
    ) -> gs.Variable:
        """Append a node with one output, of this element type and shape (None: not known)."""
        output = self.emit(op, inputs, **attrs)[0]
        output.dtype, output.shape = dtype, shape
        return output

    def replace(self, old: gs.Tensor, new: gs.Variable) -> None:
        """Let every reader of ``old`` read ``new``; a graph output keeps its name."""
        for node in list(old.outputs):
            for index, tensor in enumerate(node.inputs):
                if tensor is old:
                    node.inputs[index] = new
        for index, tensor in enumerate(self.graph.outputs):
            if tensor is old:
                kept, old.name = old.name, self.name("old")
                self._node_props[kept] = self._node_props.pop(new.name, [])
                new.name, new.dtype, new.shape = kept, old.dtype, old.shape
                self.graph.outputs[index] = new

    def is_read(self, tensor: gs.Tensor) -> bool:
        """Whether a node reads ``tensor`` or the graph gives it back."""
        return bool(tensor.outputs) or self.gives(tensor)

    def gives(self, tensor: gs.Tensor) -> bool:
        """Whether the graph gives ``tensor`` back."""
        return any(tensor is out for out in self.graph.outputs)

    def nodes(self, *ops: str) -> Iterator[gs.Node]:
        """Nodes of these operators, in order, from a copy of the list."""
        return (node for node in list(self.graph.nodes) if node.op in ops)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hush graphsurgeon, which remarks on every bf16 tensor and on colours it cannot print."""
    before, G_LOGGER.severity = G_LOGGER.severity, G_LOGGER.ERROR
    try:
        yield
    finally:
        G_LOGGER.severity = before


def value(tensor: gs.Tensor | None) -> NDArray[Any] | None:
    """The array of a small constant, or None: external weights are never read."""
    if isinstance(tensor, gs.Variable) and tensor.inputs and tensor.inputs[0].op == "Constant":
        tensor = tensor.inputs[0].attrs.get("value")
    if not isinstance(tensor, gs.Constant) or is_external(tensor) or tensor.dtype in _NARROW:
        return None
    return array_of(tensor)


def array_of(constant: gs.Constant) -> NDArray[Any]:
    """The array of a constant in the graph, bf16 as ``ml_dtypes`` has it: graphsurgeon warns of that, and keeps it."""
    with _quiet():
        return np.asarray(constant.values)


def kind_of(tensor: gs.Tensor) -> np.dtype[Any] | None:
    """Element type; graphsurgeon knows bf16 by its ONNX number only."""
    if tensor.dtype is None:
        return None
    known = tensor.dtype
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(known) if isinstance(known, int) else known)


def is_external(tensor: gs.Tensor) -> bool:
    """A constant whose bytes lie in another file."""
    values = tensor._values if isinstance(tensor, gs.Constant) else None
    return isinstance(values, LazyValues) and values.tensor.data_location == onnx.TensorProto.EXTERNAL


def is_weight(tensor: gs.Tensor) -> bool:
    """A constant, or what ``WEIGHT_OPS`` make of constants."""
    if isinstance(tensor, gs.Constant):
        return True
    node = source(tensor)
    return node is not None and node.op in WEIGHT_OPS and all(is_weight(item) for item in node.inputs)


def source(tensor: gs.Tensor | None) -> gs.Node | None:
    """The node that makes ``tensor``."""
    return tensor.inputs[0] if tensor is not None and tensor.inputs else None


def strip(tensor: gs.Tensor, *ops: str) -> gs.Tensor:
    """Walk up while the producer is one of ``ops``, along its first input."""
    while (node := source(tensor)) is not None and node.op in ops:
        tensor = node.inputs[0]
    return tensor


def up(tensor: gs.Tensor, *ops: str) -> gs.Node | None:
    """The producer if it is one of ``ops``."""
    node = source(tensor)
    return node if node is not None and node.op in ops else None


def readers(tensor: gs.Tensor, *ops: str) -> list[gs.Node]:
    """Nodes of ``ops`` (all where none is named) that read ``tensor``, each once."""
    nodes: list[gs.Node] = []
    for node in tensor.outputs:
        if (not ops or node.op in ops) and not any(node is other for other in nodes):
            nodes.append(node)
    return nodes


def size(model: onnx.ModelProto) -> int:
    """Nodes of a graph; Constant and Identity, which cost nothing, and folded weight expressions do not count."""
    done = {tensor.name for tensor in model.graph.initializer}
    counted = 0
    for node in model.graph.node:
        if node.op_type == "Constant" or (node.op_type in WEIGHT_OPS and all(name in done for name in node.input)):
            done.update(node.output)
        elif node.op_type != "Identity":
            counted += 1
    return counted
