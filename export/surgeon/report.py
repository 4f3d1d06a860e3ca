"""What surgery did to a graph: one record a pass, operators before and after, work by layer, as JSON in ONNX."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

import onnx

from luvc_export.bundle.folder import Bundle
from luvc_export.bundle.graphs import read_graph
from luvc_export.errors import BundleError

#: Metadata key of the JSON list of reports in a graph.
REPORT_KEY = "luvc.surgery"


@dataclass(frozen=True)
class PassReport:
    """What one pass did.

    Attributes:
        name: The pass.
        fired: How often it changed the graph.
        reason: Why it did not fire, or what it left alone.
        before: Nodes before it (Constant, Identity and folded weight expressions left out).
        after: Nodes after it.
    """

    name: str
    fired: int
    reason: str
    before: int
    after: int


@dataclass(frozen=True)
class GraphReport:
    """Surgery on one graph.

    Attributes:
        target: Name of the target it was made for.
        passes: In the order they ran.
        operators_before: Nodes by operator in the traced graph.
        operators_after: Nodes by operator now.
        layers: FLOPs and bytes by layer, one image and 64 text tokens where sizes are symbolic.
    """

    target: str
    passes: tuple[PassReport, ...]
    operators_before: dict[str, int]
    operators_after: dict[str, int]
    layers: tuple[dict[str, Any], ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> GraphReport:
        """The inverse of ``to_json``."""
        passes = tuple(PassReport(**item) for item in data["passes"])
        return cls(
            data["target"], passes, data["operators_before"], data["operators_after"], tuple(data.get("layers", ()))
        )


def histogram(model: onnx.ModelProto) -> dict[str, int]:
    """Nodes by operator, most frequent first; fused operators carry their domain."""
    counts: dict[str, int] = {}
    for node in model.graph.node:
        name = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
        counts[name] = counts.get(name, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def surgery_report(bundle: Bundle) -> dict[str, list[GraphReport]]:
    """Reports of every graph of a bundle, by file name, the latest surgery last; graphs without any are left out.

    Raises:
        BundleError: A report cannot be read.
    """
    reports = {}
    for plan, entry in bundle.manifest.plans.items():
        finished = sorted(file for one in bundle.manifest.sets if one.plan == plan for file in one.files)
        for name in dict.fromkeys(filter(None, (entry.vision, entry.decoder, entry.decoder_debug, *finished))):
            model = onnx.load_model_from_string(read_graph(bundle, name).data)
            text = {item.key: item.value for item in model.metadata_props}.get(REPORT_KEY)
            if text is None:
                continue
            try:
                reports[name] = [GraphReport.from_json(item) for item in json.loads(text)]
            except (ValueError, KeyError, TypeError) as error:
                raise BundleError("a surgery report cannot be read", where=name, got=str(error)) from error
    return reports
