"""A bundle's graph for whoever reads it: hashed, walked, and every file it takes weights from hashed too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luvc_export.bundle import onnx_fields as onnx
from luvc_export.bundle import onnx_wire as wire
from luvc_export.bundle.folder import Bundle
from luvc_export.bundle.graph_rules import OutsideTensor, walk_graph
from luvc_export.bundle.hashing import WatchedFile
from luvc_export.bundle.manifest import PlanEntry
from luvc_export.bundle.onnx_wire import Message
from luvc_export.bundle.reference import checkpoint_folder, watch_reference
from luvc_export.core import graph_io
from luvc_export.core.element_types import BY_ANY_NAME, BY_ONNX
from luvc_export.core.files.safe_files import open_regular
from luvc_export.errors import BundleError, first_few

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class CheckedGraph:
    """A graph that may be given to a runtime.

    Args:
        data: ONNX bytes: those that were hashed and walked.
        folder: Where the files lie that it takes weights from.
        outside: Those weights.
        files: Each file they lie in, hashed, by the name the graph has for it.
        nodes: The graph's, as they were walked.
    """

    data: bytes
    folder: Path
    outside: tuple[OutsideTensor, ...]
    files: Mapping[str, WatchedFile]
    nodes: list[Message] = field(repr=False)

    @cached_property
    def inputs(self) -> frozenset[str]:
        """Names of the graph's inputs."""
        return _names(_graph(self.data), onnx.GRAPH_INPUT, onnx.VALUE_NAME)

    @cached_property
    def outputs(self) -> frozenset[str]:
        """Names of the graph's outputs."""
        return _names(_graph(self.data), onnx.GRAPH_OUTPUT, onnx.VALUE_NAME)

    def floats(self, name: str, count: int) -> memoryview:
        """A constant of ``count`` float32 numbers that the graph itself holds, little-endian.

        Raises:
            BundleError: It holds none, or another number of them.
        """
        for tensor in wire.parts(_graph(self.data), onnx.GRAPH_INITIALIZER):
            if wire.text(tensor, onnx.TENSOR_NAME) == name:
                raw = wire.single(tensor, onnx.TENSOR_RAW)
                kind = wire.number(tensor, onnx.TENSOR_TYPE)
                if kind == BY_ANY_NAME["float32"].onnx and isinstance(raw, memoryview) and len(raw) == 4 * count:
                    return raw
        raise BundleError(
            "a graph lacks a constant of its plan",
            where=name,
            expected=f"{count} float32 numbers",
            fix="calibrate the plan again",
        )

    def check_files(self) -> None:
        """Check that the files are still those that were hashed, before and after something else has read them.

        Raises:
            BundleError: One is another, or has changed.
        """
        for file in self.files.values():
            file.check()


def read_graph(bundle: Bundle, name: str) -> CheckedGraph:
    """Graph ``name`` of a bundle. Every reader takes it from here: runtimes, builders, calibration, reports.

    Raises:
        BundleError: It or a file it takes weights from is missing, changed or not listed; it is no graph, or holds what
            exports of luvc-export never do.
    """
    data, where = bundle.read(name), str(bundle.folder / name)
    outside, nodes = walk_graph(data, where)
    _check_sources(data, outside, nodes, where)
    manifest = bundle.manifest
    weights = {entry.quantised.weights for entry in manifest.plans.values() if entry.quantised}
    quantised = any(tensor.location in weights for tensor in outside)
    if manifest.weights.mode == "none":
        return CheckedGraph(data, bundle.folder, outside, {}, nodes)
    if manifest.weights.mode == "reference" and not quantised:
        if not outside:
            return CheckedGraph(data, bundle.folder, outside, {}, nodes)
        watched = watch_reference(bundle.folder, manifest)
        for tensor in outside:
            _check_reference(bundle, tensor, where)
        used = sorted({tensor.location for tensor in outside})
        folder = checkpoint_folder(bundle.folder, manifest)
        return CheckedGraph(data, folder, outside, {file: watched[file] for file in used}, nodes)
    for tensor in outside:
        known = manifest.files.get(tensor.location)
        if known is None:
            raise BundleError(
                "a graph takes a weight from a file the manifest does not list",
                where=where,
                got=f"{tensor.name!r} from {tensor.location!r}",
            )
        if tensor.offset + (tensor.bytes or tensor.length or 0) > known.bytes:
            raise BundleError(
                "a graph takes a weight from beyond the end of a file",
                where=where,
                got=f"{tensor.name!r}, {tensor.bytes} bytes at {tensor.offset} of {tensor.location!r}",
                expected=f"at most {known.bytes} bytes",
            )
    used = sorted({tensor.location for tensor in outside})
    return CheckedGraph(data, bundle.folder, outside, {file: bundle.watch(file) for file in used}, nodes)


def _graph(data: bytes) -> Message:
    return wire.part(wire.decode(memoryview(data))[onnx.MODEL_GRAPH][0])


def _names(graph: Message, field: int, name: int) -> frozenset[str]:
    return frozenset(wire.text(value, name) for value in wire.parts(graph, field))


def _check_sources(data: bytes, outside: Iterable[OutsideTensor], nodes: Iterable[Message], where: str) -> None:
    """Everything that a graph reads must come from somewhere: runtimes say it each in their own way."""
    try:
        graph = _graph(data)
        defined = {"", *(tensor.name for tensor in outside), *_names(graph, onnx.GRAPH_INPUT, onnx.VALUE_NAME)}
        defined |= _names(graph, onnx.GRAPH_INITIALIZER, onnx.TENSOR_NAME)
        defined.update(name for node in nodes for name in wire.texts(node, onnx.NODE_OUTPUT))
        read = {name for node in nodes for name in wire.texts(node, onnx.NODE_INPUT)}
        read |= _names(graph, onnx.GRAPH_OUTPUT, onnx.VALUE_NAME)
    except ValueError as error:  # names that are no text
        raise BundleError("this file is no ONNX graph", where=where, got=str(error)) from error
    if nowhere := sorted(read - defined):
        raise BundleError(
            "the graph reads or returns what nothing in it gives",
            where=where,
            got=first_few(nowhere),
            fix="do not use this bundle; export it again from the checkpoint",
        )


def _check_reference(bundle: Bundle, tensor: OutsideTensor, where: str) -> None:
    """Graph and manifest must mean the same bytes: the graph is what runtimes read, the manifest was hashed."""
    place = bundle.manifest.weights.tensors.get(tensor.name)
    if place is None:
        raise BundleError("the manifest does not say where a weight lies", where=where, got=tensor.name)
    ours, theirs = (tensor.location, tensor.offset, tensor.bytes), (place.file, place.offset, place.bytes)
    if ours != theirs:
        raise BundleError(
            "a graph and the manifest say different places of a weight",
            where=f"{where}: {tensor.name}",
            got=f"{ours[2]} bytes at {ours[1]} of {ours[0]!r}",
            expected=f"{theirs[2]} bytes at {theirs[1]} of {theirs[0]!r}",
        )
    kind = BY_ANY_NAME[place.dtype.lower()].onnx  # known: the record was checked with its checkpoint
    if (tensor.kind, tensor.shape) != (kind, tuple(place.shape)):
        raise BundleError(
            "the manifest and the graph do not agree on a weight",
            where=f"{where}: {tensor.name}",
            got=f"type {kind}, {list(place.shape)}",
            expected=f"type {tensor.kind}, {list(tensor.shape)}",
        )


def check_names(bundle: Bundle, entry: PlanEntry, name: str, graph: CheckedGraph) -> None:
    """Check that graph ``name`` of a plan has the inputs and outputs that it is asked by, before a runtime opens it.

    An input under another name would be left as it is: OpenVINO runs with whatever lies in its memory then, and ends.

    Args:
        bundle: The bundle.
        entry: The plan.
        name: Its vision graph, its decoder, the decoder for debugging, or one of ``Manifest.sets``.
        graph: What is in the file.

    Raises:
        BundleError: An input that is always there or an output that is asked for is missing, or there is an input that
            nothing is given for.
    """
    plan, states, sets = entry.plan, bundle.manifest.states_of(entry), bundle.manifest.sets
    if any(name == one.head for one in sets):
        inputs = known = {graph_io.HEAD_ROWS}
        outputs = optional = {graph_io.LOGITS}
    elif name == entry.vision:
        inputs = known = {*graph_io.vision_inputs(plan)}
        outputs = {graph_io.VISUAL_EMBEDS, graph_io.VISUAL_POSITIONS}
        outputs |= {graph_io.MERGED_INTO} if plan.encoder.says_merged else set()
        optional = {*outputs, graph_io.MERGED_INTO}
    else:
        inputs = {graph_io.INPUT_IDS, *(state.past for state in states)}
        inputs |= {graph_io.VISUAL_PADDING} if plan.decoder_padding and name != entry.decoder_debug else set()
        inputs |= {graph_io.VISUAL_EMBEDS} if plan.keep[0] else set()
        known = {*inputs, *graph_io.DECODER_INPUTS, graph_io.VISUAL_PADDING, graph_io.PAST_TEXT, graph_io.PAST_GROUPS}
        known |= bundle.manifest.lora.inputs if bundle.manifest.lora else set()
        if name != entry.decoder and any(name in one.files for one in sets):
            known |= {state.past + graph_io.NEWEST for state in states}
        known |= set() if name != entry.decoder_debug else {graph_io.forced_name(layer) for layer, _, _ in plan.chooses}
        outputs = {bundle.manifest.does.output, *(state.present for state in states)}
        outputs |= {graph_io.kept_name(layer) for layer, _, _ in plan.chooses} if name != entry.decoder_debug else set()
        optional = {*outputs, graph_io.HEAD_ROWS, *(graph_io.kept_name(layer) for layer, _, _ in plan.chooses)}
    for kind, needed, held in (("inputs", inputs, graph.inputs), ("outputs", outputs, graph.outputs)):
        if missing := sorted(needed - held):
            raise BundleError(
                f"the graph lacks {kind} of its plan",
                where=str(bundle.folder / name),
                got=first_few(sorted(held - known - optional)) or "none in their place",
                expected=first_few(missing),
                fix="export the bundle again",
            )
    if strange := sorted(graph.inputs - known):
        raise BundleError(
            "the graph has inputs that nothing is given for",
            where=str(bundle.folder / name),
            got=first_few(strange),
            expected=first_few(sorted(known - graph.inputs or known)),
            fix="export the bundle again",
        )


class MappedWeights:
    """Files of weights, mapped when first asked for; nothing is read yet."""

    def __init__(self) -> None:
        self._files: dict[Path, NDArray[np.uint8]] = {}

    def stored(self, graph: CheckedGraph, tensor: OutsideTensor, aligned: bool = False) -> NDArray[np.uint8]:
        """The bytes of an outside weight of ``graph``, read-only.

        ``aligned``: at an address that its type is read from; one that lies at another in its file is copied.

        Raises:
            BundleError: The file is not the one that was hashed.
        """
        import numpy as np  # what opens a bundle needs none of it

        watched, kind = graph.files[tensor.location], BY_ONNX.get(tensor.kind)
        if watched.path not in self._files:
            with open_regular(watched.path) as file:
                self._files[watched.path] = np.memmap(file, np.uint8, "r")
            watched.check()
        part = self._files[watched.path][tensor.offset :][: tensor.bytes or 0]
        apart = aligned and kind is not None and part.nbytes and part.ctypes.data % kind.itemsize
        return part.copy() if apart else part

    def array(self, graph: CheckedGraph, tensor: OutsideTensor, aligned: bool = False) -> NDArray[Any]:
        """``stored`` in its shape, of the numpy type that holds its bits."""
        flat = self.stored(graph, tensor, aligned).view(BY_ONNX[tensor.kind].storage)
        return flat.reshape(tensor.shape)
