"""What slots for adapters cost where engines are built: plan size and build time without, with inputs, and with refit.

Run: python benchmarks/measure/times/slots_engines.py PLAIN SLOTS [--target rtx-ada] [--precision fp16] [--batch 1]

Prints Markdown. PLAIN and SLOTS are the same export without and with ``--lora-slots``; decoders alone are built. Needs
the target's library and no GPU, unless the library wants one: then the row says what it said. Nothing is run. What a
call or a change of adapter brings to the device is arithmetic on the bundle: factors for inputs, for refit every weight
that has a slot, as refit replaces whole weights.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import Any
from unittest.mock import patch

from luvc_export.bundle.folder import load
from luvc_export.core.element_types import BY_PRECISION
from luvc_export.engines import builder, targets
from luvc_export.engines.options import BuildOptions
from luvc_export.pipeline import prepare_build

MIB = 2**20


def row(name: str, folder: Path, refit: bool, options: argparse.Namespace) -> str:
    """Build one decoder: a row of the table."""
    how: dict[str, Any] = {"precision": options.precision, "batch": options.batch}
    prepared = prepare_build(load(folder), options.target, options.plan, **how)
    graph = prepared.graphs[1]
    flags = BuildOptions(refit=refit)
    begin, spent = perf_counter(), process_time()
    with TemporaryDirectory() as scratch:
        plan = Path(scratch) / "decoder.engine"
        try:
            with patch.object(builder, "_check_refit"):  # which refuses refit without a GPU before it is tried
                built = builder.build(graph, plan, prepared.target, prepared.capacity, flags)
        except Exception as error:
            return f"| {name} | not built: {' '.join(str(error).split())[:160]} | | |"
        size = plan.stat().st_size
    activations = f"{(built.activation_bytes or 0) / MIB:,.1f}"
    seconds = f"{perf_counter() - begin:.1f} ({process_time() - spent:.1f})"
    return f"| {name} | {size / MIB:,.1f} | {seconds} | {activations} |"


def main() -> None:
    """Read the command line, build, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plain", type=Path)
    parser.add_argument("slots", type=Path)
    parser.add_argument("--target", default="rtx-ada", choices=targets.names())
    parser.add_argument("--plan")
    parser.add_argument("--precision", default="fp16")
    parser.add_argument("--batch", type=int, default=1)
    options = parser.parse_args()
    record = load(options.slots).manifest.lora
    assert record is not None, "the second bundle has slots"
    wide = BY_PRECISION[options.precision].itemsize
    factors = record.rank * sum(entering + leaving for entering, leaving in record.slots.values()) * wide
    weights = sum(entering * leaving for entering, leaving in record.slots.values()) * wide
    print(
        f"{options.target}, {options.precision}, batch {options.batch}, rank {record.rank}. A change of adapter brings "
    )
    print(f"{factors / MIB:,.1f} MiB with inputs, {weights / MIB:,.1f} MiB with refit.\n")
    print("| decoder | plan MiB | build s (of the CPU) | activations MiB |")
    print("|---|---:|---:|---:|")
    for name, folder, refit in (
        ("no slots", options.plain, False),
        ("inputs", options.slots, False),
        ("refit", options.plain, True),
    ):
        print(row(name, folder, refit, options), flush=True)


if __name__ == "__main__":
    main()
