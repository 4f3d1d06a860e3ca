"""One plan of a bundle while it is quantised: weights are rounded once, graphs written for any choice of sites."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from luvc_export.bundle.folder import Bundle
from luvc_export.bundle.graphs import CheckedGraph, read_graph
from luvc_export.bundle.manifest import CalibrationData, PlanEntry, Quantisation
from luvc_export.calibration.quantise import blocks
from luvc_export.calibration.quantise.insert import Inserter
from luvc_export.calibration.quantise.recipe import Recipe, Scales, decide
from luvc_export.calibration.quantise.sites import sites
from luvc_export.calibration.quantise.statistics import Statistics
from luvc_export.calibration.quantise.weight_packing import PackedWeight, WeightPacker, pack_weight, read
from luvc_export.calibration.runners.probes import write_copy
from luvc_export.core.element_types import BY_PRECISION
from luvc_export.core.files.safe_files import write_whole
from luvc_export.core.precision import WIDE
from luvc_export.errors import BundleError, Progress

#: Of every site its statistics, or what was decided elsewhere: scales, or why it stays high.
Seen = Mapping[str, Statistics | Scales | str]


class Quantiser:
    """Quantises ``plan`` of ``bundle``.

    Args:
        bundle: The bundle.
        plan: Name of one of its plans.
        recipe: How.
        seen: Of every site its statistics (see ``ranges.collect``), or what was decided elsewhere.
        folder: An empty folder for rounded weights and trial graphs.
        keep: Sites that stay high because the user wants it.
        progress: Told (stage, fraction done).
        too: Sites high by default that are quantised because the user wants it.

    Attributes:
        names: Sites that can be quantised, in the order of computation.
        high: Sites that stay high whatever is chosen, and why.
        wide: Sites that get eight bits where the precision has four, for whoever chooses to set (``bisect``).

    Raises:
        BundleError: The statistics are not of these graphs.
    """

    def __init__(
        self,
        bundle: Bundle,
        plan: str,
        recipe: Recipe,
        seen: Seen,
        folder: Path,
        keep: Collection[str] = (),
        progress: Progress = lambda stage, done: None,
        too: Collection[str] = (),
    ) -> None:
        self.bundle, self.plan, self.recipe = bundle, plan, recipe
        self.entry = bundle.entry(plan)
        self.name = recipe.precision.plan_name(plan, self.entry.variant_of, recipe.named)
        self._dtype = np.dtype(BY_PRECISION[bundle.manifest.dtype].name).type
        self._packer = WeightPacker(folder, f"weights.{self.name}")
        self._placed: dict[str, PackedWeight] = {}
        self.high: dict[str, str] = {}
        self.wide: Collection[str] = ()
        candidates = {name: site for file in self._files for name, site in sites(load(self.bundle, file).graph).items()}
        for number, (name, site) in enumerate(candidates.items()):
            progress("rounding weights", (number + 1) / len(candidates))
            if name in keep or (site.high and name not in too):
                self.high[name] = "asked for" if name in keep else "high by default"
                continue
            if name not in seen:
                raise BundleError(
                    "the calibration data never reached a product of this graph",
                    where=plan,
                    got=name,
                    fix="add cases that show pictures, or videos where the plan is for them; delete a --cache file",
                )
            decided = decide(recipe, site.values(), seen[name])
            if isinstance(decided, str):
                self.high[name] = decided
                continue
            self._placed[name] = pack_weight(
                self._packer, name, recipe.precision, decided.weight, decided.factor, decided.range, self._dtype
            )
        self.names = tuple(self._placed)
        self._sites = {name: candidates[name] for name in self.names}
        self._widened: dict[str, PackedWeight] = {}

    @property
    def sizes(self) -> dict[str, int]:
        """Numbers of the weight of each site."""
        return {name: placed.rows * placed.columns for name, placed in self._placed.items()}

    def _packed(self, name: str) -> PackedWeight:
        """The weight of a site as it is chosen, in eight bits or as the precision has it."""
        if name not in self.wide:
            return self._placed[name]
        if name not in self._widened:
            weight, size = self._sites[name].values(), self._placed[name].block
            assert size is not None
            rounded = blocks.nearest(weight, blocks.int8(size))
            self._widened[name] = pack_weight(
                self._packer, f"{name}.wide", self.recipe.precision, rounded, None, None, self._dtype
            )
        return self._widened[name]

    @property
    def _files(self) -> tuple[str, str]:
        return self.entry.vision, self.entry.decoder

    def write(self, folder: Path, high: Collection[str], data: CalibrationData, simulate: bool = False) -> PlanEntry:
        """Write both graphs and their weights to ``folder``, all sites but ``high`` quantised.

        A graph without a quantised site is the plan's own: nothing of it is written, its weights stay where they lie.
        In the folder given at first, weights that this choice does not use stay for the next one. With ``simulate``,
        precisions ONNX Runtime has not are numbers of that precision in fp32.
        """
        packer = self._packer if folder == self._packer.folder else WeightPacker(folder, self._packer.name)
        written = []
        for file in self._files:
            model = load(self.bundle, file)
            placed = {name: site for name, site in sites(model.graph).items() if name in self._placed}
            chosen = {name: site for name, site in placed.items() if name not in high}
            if not chosen:
                written.append(file)
                continue
            Inserter(model.graph, self._packer, self.recipe.precision, self._dtype, simulate).apply(
                chosen, {name: self._packed(name) for name in chosen}
            )
            RemoveUnusedNodesPass()(model)
            packer.take_over(model.graph)
            written.append(f"{file.split('.')[0]}.{self.name}.onnx")
            write_whole(folder / written[-1], ir.to_proto(model).SerializeToString())
        kept = self.bundle.manifest.dtype
        layers = {name: kept if name in high else self.recipe.precision.name for name in self.names}
        layers |= {name: WIDE for name in self.wide if name not in high} | dict.fromkeys(self.high, kept)
        recipe = self.recipe.to_json()
        if simulate and self.recipe.precision.tensorrt_only:
            recipe["simulated"] = kept
        quantisation = Quantisation(self.recipe.precision.name, packer.name, layers, recipe, data)
        vision, decoder = written
        return dataclasses.replace(
            self.entry,
            vision=vision,
            decoder=decoder,
            decoder_debug=self.entry.decoder_debug if decoder == self.entry.decoder else None,
            quantised=quantisation,
            precision=quantisation.precision,
            variant_of=self.entry.variant_of or self.plan,
        )

    def trial(self, high: Collection[str], data: CalibrationData) -> Bundle:
        """A bundle, in the folder given at first, whose one plan keeps ``high``, as ONNX Runtime can run it."""
        folder = self._packer.folder
        entry = self.write(folder, high, data, simulate=True)
        entry = dataclasses.replace(entry, variant_of=None, decoder_debug=None)
        graphs = {entry.vision, entry.decoder}
        kept = graphs & set(self._files)
        own = {name for name in self.bundle.manifest.files if name.endswith(".onnx")} - kept
        if not kept:
            own |= {name for name in self.bundle.manifest.files if name.startswith("weights")}
        written = (*(graphs - kept), self._packer.name)
        plans = {"plans": {self.name: entry}, "default_plan": self.name}
        return write_copy(self.bundle, folder, written, own, engines=(), **plans)


def load(bundle: Bundle, file: str) -> ir.Model:
    """A graph of a bundle; its weights lie where the bundle says and are read when they are used."""
    graph = read_graph(bundle, file)
    model = ir.from_proto(onnx.load_model_from_string(graph.data))
    for value in model.graph.initializers.values():
        outside = value.const_value
        if isinstance(outside, ir.ExternalTensor):
            outside.base_dir = graph.folder
            shape = ir.Shape(outside.shape.numpy())
            value.const_value = ir.LazyTensor(partial(_read, graph, outside), outside.dtype, shape, name=outside.name)
    return model


def _read(graph: CheckedGraph, tensor: ir.ExternalTensor) -> ir.Tensor:
    loaded = read(tensor)
    graph.check_files()
    return loaded
