"""``luvc-export demo``."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from luvc_export.cli import options
from luvc_export.cli.files import check_folder
from luvc_export.cli.options import grouped
from luvc_export.cli.tables.console import styled, table, write
from luvc_export.core.named_plans import DEFAULT_PLAN
from luvc_export.core.options import option
from luvc_export.errors import CheckFailed, UsageError

#: Uncompressed, what ``run`` takes of the bundle where no plan is named, and the system this project is named after.
PLANS = ("none", DEFAULT_PLAN, "luvc")

#: Longest answer of the task in tokens, and its end.
_LONGEST = 8
#: Answers whose times are taken of every plan, in turns, each about a picture of its own.
ROUNDS = 7


@grouped
def demo(
    *,
    output: Path = option(Path("demo-out"), "Folder for the bundle and pictures.", "-o", "--output"),
    seed: int = option(0, "Which pictures are drawn.", least=0),
    pictures: int = option(1, "How many pictures to ask about."),
    as_json: options.Json = False,
) -> None:
    """Export the bundled model with and without compression and ask both about freshly drawn pictures.

    [dim]luvc-export demo --seed 7 --pictures 3[/dim]
    """
    from PIL import Image

    from luvc_export.cli.answer_lines import save_survival
    from luvc_export.core.files.folders import check_own_names
    from luvc_export.core.files.safe_files import whole
    from luvc_export.core.plan.cost import cost
    from luvc_export.demo.questions import KINDS, cases
    from luvc_export.pipeline import load_bundle

    if pictures < 1:
        raise UsageError("at least one picture is needed", where="--pictures", got=pictures)
    check_folder(output, "--output")
    check_own_names(output)
    folder = bundle(output, as_json)
    sessions = {name: load_bundle(folder, plan=name) for name in PLANS}
    asked = list(cases("heldout", len(KINDS) * pictures, seed))
    first: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []
    with options.progress(as_json) as tell:
        for number, case in enumerate(asked):
            results = {
                name: session.generate(case.images, case.prompt, max_new_tokens=_LONGEST)
                for name, session in sessions.items()
            }
            first = first or results
            answers = {name: result.text for name, result in results.items()}
            rows.append({"kind": case.kind, "question": case.prompt, "right": case.answer, "answers": answers})
            tell("asking both", (number + 1) / len(asked))
    with options.progress(as_json) as tell:
        times = _times(sessions, seed + 1, tell)
    names = [f"picture-{number}.png" for number in range(2)]
    for name, image in zip(names, asked[len(KINDS) - 1].images, strict=True):
        with whole(output / name) as file:
            Image.fromarray(image).save(file, "PNG")
    kept = {name: "kept.png" if name == PLANS[-1] else f"kept-{name}.png" for name in PLANS[1:]}
    for name, picture in kept.items():
        save_survival(first[name], output / picture)
    manifest = sessions["none"].bundle.manifest
    request = sessions["none"].prepare(asked[0].images, asked[0].prompt)
    text = len(request.token_ids) - len(request.images)
    costs = {name: cost(manifest.plans[name].plan, manifest.decoder, text) for name in PLANS}
    correct = {name: sum(row["answers"][name] == row["right"] for row in rows) for name in PLANS}
    summary = {
        "correct": correct,
        "asked": len(rows),
        "questions": rows,
        "cost": {name: costs[name].to_json() for name in PLANS},
        "timings": {name: first[name].timings.to_json() | times[name] for name in PLANS},
        "rounds": ROUNDS,
        "bundle": str(folder),
        "pictures": [str(output / name) for name in (*names, *kept.values())],
    }
    write(as_json, summary, lambda: _tables(summary, rows[: len(KINDS)], costs, first))
    if min(correct.values()) < 0.8 * len(rows):
        raise CheckFailed("the demo answered too many questions wrong", got=correct, expected=f"80 % of {len(rows)}")


def _times(sessions: dict[str, Any], seed: int, tell: Any) -> dict[str, dict[str, float]]:
    """Median times in ms of ``ROUNDS`` answers of every session; what was asked before has warmed them."""
    from luvc_export.demo.questions import KINDS, cases

    fields = ("preprocess_ms", "vision_ms", "prefill_ms", "ttft_ms")
    taken: dict[str, list[Any]] = {name: [] for name in sessions}
    asked = list(cases("heldout", ROUNDS, seed, kinds=KINDS[:1]))
    for number, case in enumerate(asked):
        for name in (*PLANS[number % len(PLANS) :], *PLANS[: number % len(PLANS)]):
            answer = sessions[name].generate(case.images, case.prompt, max_new_tokens=_LONGEST)
            taken[name].append(answer.timings)
        tell("taking times", (number + 1) / len(asked))
    return {
        name: {field: statistics.median(getattr(one, field) for one in some) for field in fields}
        for name, some in taken.items()
    }


def bundle(output: Path, quiet: bool) -> Path:
    """Export the bundled checkpoint with every demo plan, or reuse a whole bundle that this version wrote."""
    from luvc_export.cli.bundled import exported
    from luvc_export.demo import NAME

    return exported(NAME, output / "bundle", (PLANS[1], *PLANS), quiet, text_capacity=256)


def _tables(summary: dict[str, Any], rows: list[dict[str, Any]], costs: dict[str, Any], first: dict[str, Any]) -> Any:
    from luvc_export.cli.bundled import at_size

    answers = []
    for row in rows:
        texts = [row["answers"][name] for name in PLANS]
        verdicts = ["right" if text == row["right"] else styled((text, "red")) for text in texts]
        answers.append((row["question"], row["right"], *verdicts))
    title, caption = "the first picture's questions", "wrong answers in red"
    yield table(answers, "question", "right answer", *PLANS, title=title, caption=caption)
    timings = [first[name].timings for name in PLANS]
    median = [summary["timings"][name] for name in PLANS]
    lines = {
        "right answers": [f"{summary['correct'][name]} of {summary['asked']}" for name in PLANS],
        "visual tokens by layer": [" ".join(map(str, t.visual_tokens)) for t in timings],
        "LLM prefill MFLOPs": [f"{costs[n].flops / 1e6:.1f} ({costs[n].flops_ratio:.2f}x fewer)" for n in PLANS],
        "KV cache (fp32)": [f"{t.kv_mib * 1024:.0f} KiB" for t in timings],
        "vision": [f"{t['vision_ms']:.1f} ms" for t in median],
        "prefill": [f"{t['prefill_ms']:.1f} ms" for t in median],
        "first token": [f"{t['ttft_ms']:.1f} ms" for t in median],
    }
    cells = ((name, *values) for name, values in lines.items())
    yield table(cells, "", "none (uncompressed)", *PLANS[1:], left=1, title="cost of one picture")
    yield styled(at_size(PLANS, summary["timings"], ROUNDS))
    yield styled("pictures: " + ", ".join(summary["pictures"]))
