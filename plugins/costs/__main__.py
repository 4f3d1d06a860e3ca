"""Write docs/plugin-costs.md. ``PYTHONPATH=plugins python -m costs``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from costs import inlined
from costs.kernels import FLOAT, INDEX, Launch, Merge, Prune
from costs.machines import MACHINES, least_seconds

PAGE = Path(__file__).resolve().parents[2] / "docs" / "plugin-costs.md"
#: Tokens and channels of a picture; a quarter as many frequencies (rho 0.25), half of the tokens kept, scored by
#: ``residual``, with order, place, cos and sin of 64 frequencies beside each token.
PRUNES = ((80, 192), (256, 896), (400, 1152), (576, 1536), (1024, 2048), (2304, 2048), (4096, 3584))
#: Side of a grid and channels of a unit; an eighth of rows and columns leaves.
MERGES = ((16, 768), (24, 5120), (32, 5120), (64, 5120))
SHOWN = (576, 1536)


def prune_of(tokens: int, channels: int) -> Prune:
    """The prune of a row of the table."""
    rows = 2 * INDEX + 2 * 64 * FLOAT
    return Prune(1, tokens, channels, 2 * (tokens // 8) + 1, tokens // 2, residual=True, rows=rows)


def merge_of(side: int, channels: int) -> Merge:
    """The merge of a row of the table."""
    return Merge(1, side, side, channels, side // 8, side // 8)


def pays(ours: Sequence[Launch], theirs: Sequence[Launch]) -> bool:
    """Whether the plugin's least time is no longer than the inlined form's on any of the machines."""
    return all(least_seconds(ours, machine) <= least_seconds(theirs, machine) for machine in MACHINES)


def page() -> str:
    """The whole page."""
    machines = " | ".join(machine.name for machine in MACHINES)
    line = "|---|" + "---:|" * (len(MACHINES) + 3)
    prunes = [(f"{n} x {d}, M {prune_of(n, d).frequencies}", prune_of(n, d).launches(), inlined.prune(prune_of(n, d)))
              for n, d in PRUNES]  # fmt: skip
    merges = [(f"{s} x {s} x {c}", merge_of(s, c).launches(), inlined.merge(merge_of(s, c))) for s, c in MERGES]
    sources = "\n".join(
        f"- {each.name}: {each.bandwidth / 1e9:.1f} GB/s, {each.tf32 / 1e12:.1f} TFLOPS TF32. {each.source}."
        for each in MACHINES
    )
    return f"""# What the plugins would cost

Written by `PYTHONPATH=plugins python -m costs`. **Nothing here was timed**; what an H200 took stands in
[results/gpu.md](results/gpu.md): a prune 15 times its least time here at 1,024 x 2,048. Bytes and operations
are formulas of sizes; the emulation counts them while it runs the kernels, and `tests/plugins/test_costs.py` holds the
two together (to the byte; a merge's `move` but for neighbours it need not look at). Times are the least a data sheet
allows: each launch takes its bytes over the bandwidth or its operations over the peak, whichever is more. Launches,
caches too small, tiles that fill no GPU and products short of the peak come on top, for both sides; ours are wmma,
which reaches only a part of Hopper's peak.

{sources}

## Each kernel of a prune

N {SHOWN[0]}, D {SHOWN[1]}, fp16, score `residual`. The limit is what a prune must move: all values once, the kept rows
out. Least microseconds. Registers, shared memory and occupancy of each kernel: `plugins/compiled/resources.json`.

| kernel | MB read | MB written | G multiply-adds | {machines} |
{line}
{_each(prune_of(*SHOWN))}

{_fusing(prune_of(*SHOWN))}

## By size: prune

The other form is what TensorRT would run from the inlined body after every fusion one may hope for
([`inlined.py`](../plugins/costs/inlined.py)). It takes each product once in TF32 where ours take three for fp32's
accuracy, and keeps at most 3,840 tokens. Least microseconds, plugin / inlined:

| N x D | MB plugin | MB inlined | launches | {machines} | worth loading |
{line}---|
{_rows(prunes)}

## By size: merge

| grid x channels | MB plugin | MB inlined | launches | {machines} | worth loading |
{line}---|
{_rows(merges)}

## So

- `OrthogonalMerge`: yes, at every size. It moves about a quarter of the bytes in a third of the launches.
- `SpectrumPrune`: yes up to 128 frequencies (about 500 tokens at rho 0.25). Above, three TF32 products for each of the
  inlined form's one outweigh the bytes saved, so `call_plugins` leaves larger prunes inlined, and says so, unless they
  keep more than the 3,840 tokens TensorRT's TopK takes. On an H200 the kernel was sooner than torch's operators up to
  576 tokens and 2.3 to 2.9 times later from 4,096 on. What goes with that is accuracy: scores of one TF32 product are
  good to about three digits, and tokens near the threshold may change places.
- Half precision would allow two products in place of three in `project` (values of fp16 are exact in TF32 once the
  norm's scale is in the basis): a sixth of all. Not built.
"""


def _each(shape: Prune) -> str:
    launches = shape.launches()
    rows = [(each.name, [each]) for each in launches] + [("all", launches), ("limit", [_limit(shape)])]
    return "\n".join(
        f"| {name} | {sum(e.read for e in part) / 1e6:.2f} | {sum(e.written for e in part) / 1e6:.2f} |"
        f" {sum(e.products for e in part) / 1e9:.2f} | "
        + " | ".join(f"{1e6 * least_seconds(part, machine):.1f}" for machine in MACHINES)
        + " |"
        for name, part in rows
    )


def _limit(shape: Prune) -> Launch:
    row = shape.channels * shape.element + shape.rows
    values = shape.groups * shape.tokens * shape.channels * shape.element
    kept = shape.groups * shape.keep * row
    return Launch("limit", values + shape.groups * shape.keep * shape.rows, kept)


def _fusing(shape: Prune) -> str:
    """What joining launches would save at most."""
    launches = {each.name: each for each in shape.launches()}
    whole = [*launches.values()]
    values = shape.groups * shape.tokens * shape.channels * shape.element
    ideas = {
        "row norms inside the first product": [
            _less(launches["row_norm"], values), *[e for e in whole if e.name != "row_norm"]
        ],
        "the sum of partial scores inside the selection": [
            *[e for e in whole if e.name not in ("finish", "select")],
            Launch("both", launches["finish"].read, launches["select"].written),
        ],
        "the gather inside the selection": [
            *[e for e in whole if e.name != "gather"], _less(launches["gather"], shape.groups * shape.keep * INDEX)
        ],
    }  # fmt: skip
    parts = []
    for name, joined in ideas.items():
        saved = [1 - least_seconds(joined, machine) / least_seconds(whole, machine) for machine in MACHINES]
        shares = " | ".join(f"{100 * share:.1f}" for share in saved)
        parts.append(f"| {name} | {shares} |")
    machines = " | ".join(machine.name for machine in MACHINES)
    return (
        f"What fusing would save at most, in percent of the whole:\n\n| put together | {machines} |\n"
        f"|---|{'---:|' * len(MACHINES)}\n" + "\n".join(parts) + "\n\n"
        "The first could spare the norm's own read of the values, which leaves them in the cache of the product\n"
        "behind it; the others save launches, which a CUDA graph makes cheap. Nothing here pays for another kernel."
    )


def _less(launch: Launch, read: int) -> Launch:
    return Launch(launch.name, launch.read - read, launch.written, launch.products)


def _rows(rows: Sequence[tuple[str, Sequence[Launch], Sequence[Launch]]]) -> str:
    lines = []
    for name, ours, theirs in rows:
        sizes = [sum(each.moved for each in part) / 1e6 for part in (ours, theirs)]
        times = [
            f"{1e6 * least_seconds(ours, machine):.1f} / {1e6 * least_seconds(theirs, machine):.1f}"
            for machine in MACHINES
        ]
        verdict = "yes" if pays(ours, theirs) else "no"
        launches = f"{len(ours)} / {len(theirs)}"
        lines.append(f"| {name} | {sizes[0]:.1f} | {sizes[1]:.1f} | {launches} | {' | '.join(times)} | {verdict} |")
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
