"""A window of clips that evicts the oldest against one that is made anew: `python -m glyph_clips.windows BUNDLE`.

A stream of films of moving digits; after each clip a question of its own is asked of both windows. Counts how often
they say the same and how often each is right, and times what comes before a first token, from a new clip on. Writes
`docs/results/clip-windows.json`.
"""

from __future__ import annotations

import argparse
import json
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from luvc_export.calibration import intervals, tasks
from luvc_export.runtime.cpu_features import cpu_features
from luvc_export.runtime.session import Session
from luvc_export.runtime.streams.clip_window import ClipWindow, Forget

RESULTS = Path(__file__).parents[2] / "docs" / "results"
WAYS: tuple[Forget, Forget] = ("rebuild", "evict")


def asked(window: ClipWindow, case: Any) -> tuple[str, float]:
    """Return what a window says after a clip, and seconds from the clip, decoded, to the first token."""
    began = perf_counter()
    window.show(list(case.video))
    shown = perf_counter() - began
    answer = window.ask(case.prompt, max_new_tokens=8, greedy=True)
    return answer.text.strip(), shown + answer.timings.ttft_ms / 1000


def main() -> None:
    """Answer, compare and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="a bundle of glyph_clips for whole clips, of `glyph_clips.graphs`")
    parser.add_argument("--clips", type=int, default=3, help="clips of a window")
    parser.add_argument("--count", type=int, default=240, help="windows")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    task = tasks.find("glyph-clips")
    asked_of = list(islice(task.cases(task.report[0], 3 * args.count, task.report[1]), 3 * args.count))
    cases = [asked_of[3 * film + film % 3] for film in range(args.count)]  # three are about each film
    session = Session(args.bundle, "cpu", threads=1)
    windows = {way: ClipWindow(session, args.clips, way, fps=cases[0].fps) for way in WAYS}
    same = list[bool]()
    right: dict[Forget, list[bool]] = {way: [] for way in WAYS}
    seconds: dict[Forget, list[float]] = {way: [] for way in WAYS}
    for number, case in enumerate(cases):
        texts = dict[Forget, str]()
        for way, window in windows.items():
            texts[way], spent = asked(window, case)
            if number >= args.clips:
                seconds[way].append(spent)
                right[way].append(texts[way] == case.answer)
        if number >= args.clips:
            same.append(texts["rebuild"] == texts["evict"])
    groups = [case.picture for case in cases[args.clips :]]
    record = {
        "bundle_plan": session.plan_name,
        "clips": args.clips,
        "windows": len(same),
        "agreement": [round(value, 4) for value in intervals.accuracy(same, groups)],
        **{f"right_{way}": [round(part, 4) for part in intervals.accuracy(right[way], groups)] for way in WAYS},
        **{f"first_token_ms_{way}": round(1000 * float(np.median(seconds[way])), 1) for way in WAYS},
        "cpu": cpu_features(),
    }
    print(json.dumps(record), flush=True)
    file = args.output / "clip-windows.json"
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"] if file.is_file() else []
    rows = [row for row in rows if (row["bundle_plan"], row["clips"]) != (session.plan_name, args.clips)]
    lines = ",\n".join(json.dumps(row) for row in [*rows, record])
    file.write_text(f'{{"rows": [\n{lines}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
