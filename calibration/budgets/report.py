"""The search as Markdown, JSON and pictures, and what a terminal shows of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from luvc_export.calibration.budgets.depth import DepthProfile
from luvc_export.calibration.budgets.freezing import SAMPLES
from luvc_export.calibration.budgets.run import SearchResult
from luvc_export.calibration.budgets.space import SHARES
from luvc_export.calibration.budgets.trials import PlanTrial
from luvc_export.calibration.parity.plots import canvas, error_bars, png
from luvc_export.core.files import pages
from luvc_export.core.files.folders import make_folder
from luvc_export.core.files.json_file import dumps
from luvc_export.core.files.safe_files import write_whole
from luvc_export.core.plan import Plan, Stripes


def write(result: SearchResult | DepthProfile, folder: Path, command: str) -> list[Path]:
    """Write ``budgets.md``, ``budgets.json`` and two pictures, or ``profile.json`` and one; each whole or not at all.

    Raises:
        MachineError: matplotlib is not installed.
    """
    data = (dumps({"command": command, **result.to_json()}) + "\n").encode()
    if isinstance(result, DepthProfile):
        files = {"profile.png": profile(result), "profile.json": data}
    else:
        files = {"budgets-horizon.png": horizon(result)} if result.horizon.curve else {}
        files |= {"budgets-frontier.png": frontier(result), "budgets.json": data}
        files["budgets.md"] = page(result, command).encode()
    make_folder(folder)
    for name, content in files.items():
        write_whole(folder / name, content)
    return [folder / name for name in files]


def page(result: SearchResult, command: str) -> str:
    """The document: ``report.template`` filled in; every number in it was measured by the run that writes it."""
    gate = (
        f"The gate is on the chosen plan alone, {_keep(result.chosen.plan)}, which was fixed before the held-out part "
        f"was asked anything: its agreement there must be at least {result.bar:g}."
    )
    if result.speedup:
        gate = f"The chosen plan, {_keep(result.chosen.plan)}, was fixed before the held-out part was asked anything."
    return pages.filled(
        Path(__file__).with_suffix(".template"),
        command=command,
        data=result.about,
        result=result,
        plural="s" * (result.images > 1),
        summary="\n".join(f"- {line}" for line in summary(result)),
        sections=_horizon(result) + _settings(result) + _order(result),
        frontier=pages.table(FRONTIER, frontier_rows(result)),
        gate=gate,
        held_out=pages.table(HELD_OUT, held_out_rows(result)),
    )


def tables(result: SearchResult | DepthProfile) -> list[tuple[str, Sequence[str], Sequence[Sequence[str]]]]:
    """What a terminal shows: titles, heads and rows."""
    if isinstance(result, SearchResult):
        frontier = ("frontier, calibration part", FRONTIER, frontier_rows(result))
        return [frontier, ("held-out part", HELD_OUT, held_out_rows(result))]
    carried = [(each.name, *_asked(each.trial), "may carry" if each.free else "must work") for each in result.quarters]
    shapes = [
        (
            f"{shape.share:g}",
            _working(shape, trial.plan),
            f"{result.flops / trial.flops:.2f}x",
            *_asked(trial),
            "holds" if trial.holds else "",
        )
        for shape, trial in result.proposal.tried
    ]
    return [
        ("where the picture is read", HORIZON, horizon_rows(result)),
        ("quarters that carry", QUARTERS, carried),
        ("shapes", SHAPES, shapes),
    ]


def _working(shape: Stripes, plan: Plan) -> str:
    if shape.every == 1:
        return "all"
    first = shape.carrying(plan.layers)[0] - max(1, round(shape.whole * plan.layers))
    return f"{first}, then {'by turns' if plan.llm.turns else 'none'}"


def _asked(trial: PlanTrial | None) -> tuple[str, str]:
    return ("", "") if trial is None else (str(trial.asked), trial.agreement.text(4))


def summary(result: SearchResult | DepthProfile) -> list[str]:
    """What was found, one sentence each."""
    return _searched(result) if isinstance(result, SearchResult) else _profiled(result)


def _profiled(result: DepthProfile) -> list[str]:
    last, layers, chosen, who = result.horizon.layer, result.none.layers, result.chosen, result.answered
    lines = [
        f"No visual token is needed from layer {last} of {layers} on." if last < layers else "The last layer looks."
    ]
    if who is not None:
        lines.insert(
            0, f"Uncompressed: accuracy {who.accuracy.text(4)}, by chance {who.chance.value:.4f}; right ones count."
        )
    if who is not None and who.left_out:
        lines.insert(1, f"Left out, answered no better than chance: {', '.join(who.left_out)}.")
    free = [each.name for each in result.quarters if each.free]
    state = "holds" if result.passed else "does NOT hold"
    return [
        *lines,
        f"Quarters that may carry, each alone: {'; '.join(free) or 'none'}.",
        f"Proposed: {result.proposal.options}, {result.flops / chosen.flops:.2f}x fewer "
        f"prefill FLOPs; kept {chosen.agreement.text(4)} where it was chosen.",
        f"Held-out part: {result.checked.agreement.text(4)}; the bar {result.bar:g} {state}.",
        f"{result.passes:.1f} passes over the data in {result.seconds:.0f} s; at most {result.foretold:.0f} foretold.",
    ]


def _searched(result: SearchResult) -> list[str]:
    layer, layers = result.horizon.layer, result.none.cached
    chosen, checked = result.chosen, result.checked.agreement
    looks = f"no visual token is needed from layer {layer} of {layers} on" if layer < layers else "the last layer looks"
    state = "holds" if result.passed else "does NOT hold"
    by = f", by {result.settings[0].name}" if result.settings else ""
    pairs = result.found.items()  # agreement is of NDCG then
    verdict = f"what was asked for is {result.speedup:g}x" if result.speedup else f"the bar {result.bar:g} {state}"
    return [
        *([] if result.speedup else [f"Horizon: {looks}."]),
        f"Chosen: {_keep(chosen.plan)}{by}, {result.flops / chosen.flops:.2f}x fewer prefill FLOPs; agreement "
        f"{chosen.agreement.text(4)} where it was searched.",
        f"Held-out part: {checked.text(4)}; {verdict}.",
        *(f"Held-out pairs, {name}: {share.text()}; by chance {share.chance.value:.4f}." for name, share in pairs),
        *(f"At the agreement of `{item.name}`: {item.verdict}." for item in result.compared),
    ]


QUARTERS = ("layers", "questions", "agreement", "")
SHAPES = ("share", "layers that work behind the prune", "fewer", "questions", "agreement", "")
HORIZON = ("dropped before layer", "questions", "agreement")
FRONTIER = ("visual tokens by layer", "prefill FLOPs", "fewer", "agreement", "disagree", "")
HELD_OUT = ("plan", "visual tokens by layer", "fewer", "agreement", "disagree")


def frontier_rows(result: SearchResult) -> list[Sequence[str]]:
    """The frontier and the default plans as text, dearest first."""
    named = [(trial, name) for name, trial in result.defaults.items()]
    rows = [(trial, "") for trial in result.frontier if trial not in result.defaults.values()] + named
    rows = sorted(rows, key=lambda row: -row[0].flops)
    return [
        (
            _keep(trial.plan),
            f"{trial.flops:.3g}",
            f"{result.flops / trial.flops:.2f}x",
            trial.agreement.text(4),
            f"{trial.wrong} of {trial.asked}",
            name or ("chosen" if trial.plan == result.chosen.plan else "holds" if trial.holds else ""),
        )
        for trial, name in rows
    ]


def held_out_rows(result: SearchResult) -> list[Sequence[str]]:
    """Everything that was asked on the held-out part."""
    rows: list[tuple[str, PlanTrial]] = [("chosen", result.checked)]
    for item in result.compared:
        rows += [(item.name, item.theirs), (f"searched, as good as {item.name}", item.ours)]
    return [
        (
            name,
            _keep(trial.plan),
            f"{result.flops / trial.flops:.2f}x",
            trial.agreement.text(4),
            f"{trial.wrong} of {trial.asked}",
        )
        for name, trial in rows
    ]


def _keep(plan: Plan) -> str:
    merged = f"{plan.units} merged to {plan.vision_tokens}: " if plan.encoder.merges else ""
    still = f"; frozen: {' '.join(map(str, plan.llm.kv_only))}" if plan.llm.kv_only else ""
    return merged + " ".join(map(str, plan.keep)) + still


def _horizon(result: SearchResult) -> str:
    """Where the model stops looking; nothing where a speed was searched for."""
    curve = result.horizon.curve
    if not curve:
        return ""
    text = (
        "Agreement when every visual token goes before a layer. Layers that fail are left as soon as that is certain."
    )
    return f"## Horizon\n\n{text}\n\n![horizon](budgets-horizon.png)\n\n{pages.table(HORIZON, horizon_rows(result))}\n"


def horizon_rows(result: SearchResult | DepthProfile) -> list[Sequence[str]]:
    """The curve as text."""
    return [(str(layer), *_asked(trial)) for layer, trial in result.horizon.curve.items()]


def _settings(result: SearchResult) -> str:
    """What prunes may rank by, compared; nothing where there was no choice."""
    if len(result.settings) < 2 or not result.settings[0].trials:
        return ""
    rows = [(each.name, *(trial.agreement.text(4) for trial in each.trials)) for each in result.settings]
    asked = result.settings[0].trials[0].asked
    text = (
        f"Agreement on the first {asked} questions of the calibration part with a share of the tokens in every layer "
        "up to the horizon, nothing frozen. The first is what the plans below use."
    )
    table = pages.table(("score", *(f"{share:.0%} of the tokens" for share in SHARES)), rows)
    return f"## Score and filter\n\n{text}\n\n{table}\n"


def _order(result: SearchResult) -> str:
    """The order in which layers are frozen; nothing where none may be."""
    if not result.order:
        return ""
    rows = [(str(item.layer), f"{item.divergence:.3g}") for item in result.order]
    text = (
        f"In a frozen layer visual tokens give keys and values and nothing else. KL divergence of the predictions on "
        f"{min(SAMPLES, result.chosen.asked)} questions when a layer and all above it in this table are frozen."
    )
    return f"## Layers to freeze\n\n{text}\n\n{pages.table(('layer', 'KL, nats a token'), rows)}\n"


def horizon(result: SearchResult) -> bytes:
    """Agreement by the layer before which all visual tokens go, as PNG.

    Raises:
        MachineError: matplotlib is not installed.
    """
    figure, axes = canvas(6.4, 3.6)
    curve = result.horizon.curve
    _points(axes, list(curve), list(curve.values()), "o-", "all visual tokens dropped before the layer")
    axes.axhline(result.bar, color="crimson", linestyle="--", label=f"bar {result.bar:g}")
    layers = result.none.cached
    end = f"horizon: layer {result.horizon.layer}" if result.horizon.layer < layers else "horizon: none"
    axes.axvline(result.horizon.layer, color="grey", linestyle=":", label=end)
    step = max(1, layers // 12)
    axes.set_xticks(range(0, layers + 1, step))
    axes.set(xlabel="layer", ylabel="agreement, calibration part", ylim=(0, 1.03))
    axes.legend(fontsize=8)
    return png(figure)


#: What layers of a proposed plan do with visual tokens, and their colour.
_DOES = {"work on all": "#2a7f62", "work on a share": "#7fc8a9", "carry a share": "#d9d9d9"}


def profile(result: DepthProfile) -> bytes:
    """The profile and the shape that is proposed, as PNG.

    Raises:
        MachineError: matplotlib is not installed.
    """
    figure, axes = canvas(7.2, 4.4)
    plan, curve = result.chosen.plan, result.horizon.curve
    for layer, keep in enumerate(plan.keep):
        work = "work on all" if keep == plan.keep[0] else "work on a share"
        does = "carry a share" if layer in plan.llm.kv_only else work
        if keep:
            axes.axvspan(layer - 0.5, layer + 0.5, 0, 0.06, color=_DOES[does], linewidth=0)
    for does, colour in _DOES.items():
        axes.bar([0], [0], color=colour, label=f"proposed: {does}")
    _points(axes, [*curve], [*curve.values()], "o-", "all visual tokens gone before the layer")
    asked = [each for each in result.quarters if each.trial is not None]
    middles = [(each.first + each.stop - 1) / 2 for each in asked]
    wide = [(each.stop - each.first) / 2 for each in asked]
    _points(axes, middles, [each.trial for each in asked if each.trial], "s", "a quarter carries alone", xerr=wide)
    axes.axhline(result.bar, color="crimson", linestyle="--", label=f"bar {result.bar:g}, for lower ends")
    axes.axvline(result.horizon.layer, color="grey", linestyle=":")
    axes.set_xticks(range(0, plan.layers + 1, max(1, plan.layers // 12)))
    axes.set(xlabel="layer", ylabel="answers that stay, calibration part", ylim=(0, 1.03))
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    return png(figure)


def frontier(result: SearchResult) -> bytes:
    """Agreement against prefill FLOPs by the uncompressed model's, as PNG.

    Raises:
        MachineError: matplotlib is not installed.
    """
    figure, axes = canvas(6.8, 4.2)
    share = [trial.flops / result.flops for trial in result.frontier]
    _points(axes, share, result.frontier, "o-", f"frontier, calibration part ({result.chosen.asked} questions)")
    for mark, item in zip("sD^v", result.compared, strict=False):
        _points(axes, [item.theirs.flops / result.flops], [item.theirs], mark, f"{item.name}, held-out part")
    _points(
        axes,
        [result.checked.flops / result.flops],
        [result.checked],
        "*",
        f"chosen, held-out part ({result.checked.asked} questions)",
        markersize=13,
    )
    if not result.speedup:
        axes.axhline(result.bar, color="crimson", linestyle="--", label=f"bar {result.bar:g}")
    axes.set(xlabel="prefill FLOPs, share of the uncompressed model's", ylabel="agreement with the uncompressed model")
    axes.legend(fontsize=8, loc="lower right")
    return png(figure)


def _points(axes: Any, x: list[Any], trials: list[PlanTrial], mark: str, label: str, **style: Any) -> None:
    values = [trial.agreement for trial in trials]
    style |= {"yerr": error_bars(values), "fmt": mark, "capsize": 2, "linewidth": 0.9, "label": label}
    axes.errorbar(x, [value.value for value in values], **style)
