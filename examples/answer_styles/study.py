"""Adapters at run time against merged exports: `python -m answer_styles.study RUNS -o ../docs/results` in `examples`.

`RUNS` holds the folders that `answer_styles.train` wrote, one a style; what is exported stays there too. Held-out
questions are answered by one bundle with slots and by an export of each adapter merged by peft, then in batches of
eight rows whose adapters take turns with the base model.
"""

from __future__ import annotations

import argparse
import json
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from answer_styles.train import STYLES, styled
from luvc_export import export_bundle
from luvc_export.demo import CHECKPOINT, IMAGE_SIZE
from luvc_export.demo.questions import ONE_PICTURE, GlyphCase, cases
from luvc_export.runtime.session import Session

COMMAND = "python -m answer_styles.study RUNS -o ../docs/results --count 78"
ROWS, RANK = 8, 8
GREEDY: dict[str, Any] = {"greedy": True, "max_new_tokens": 8}
#: Names of what answers, and how it is opened.
ENGINES: dict[str, tuple[str, str]] = {
    "ONNX Runtime fp32": ("cpu", "auto"),
    "OpenVINO fp32": ("openvino", "fp32"),
    "OpenVINO as it comes": ("openvino", "auto"),
}


def exported(runs: Path) -> None:
    """Export what is not there yet: with slots, without, and each adapter merged."""
    how = {"slots": {"lora_slots": RANK}, "plain": {}, **{style: {"lora": str(runs / style)} for style in STYLES}}
    for name, options in how.items():
        if not (runs / f"bundle-{name}").is_dir():
            export_bundle(str(CHECKPOINT), runs / f"bundle-{name}", image_size=IMAGE_SIZE, text_capacity=256, **options)


def opened(runs: Path, name: str, engine: str) -> Session:
    """A session of one of the bundles; the one with slots has every adapter."""
    backend, arithmetic = ENGINES[engine]
    lora = {style: runs / style for style in STYLES} if name == "slots" else None
    return Session(runs / f"bundle-{name}", backend, arithmetic=arithmetic, lora=lora)


def logits(session: Session, case: GlyphCase) -> np.ndarray:
    """Logits float32 [n, vocab] of the prompt and of two tokens after it, without an adapter."""
    request = session.prepare(list(case.images), case.prompt)
    seen = session.default.encode_images(*request.shown())
    step = session.default.run(request.token_ids, seen, blocks=request.blocks, all_logits=True)
    parts = [step.logits[0]]
    for token in (300, 301):
        step = session.default.run([token], state=step.state)
        parts.append(step.logits[0])
    return np.concatenate(parts)


def measured(runs: Path, engine: str, asked: list[GlyphCase]) -> dict[str, Any]:
    """Return the figures of one engine."""
    slots, plain = opened(runs, "slots", engine), opened(runs, "plain", engine)
    pairs = [(logits(slots, case), logits(plain, case)) for case in asked[:20]]
    apart = max(float(np.abs(own - base).max() / np.abs(base).max()) for own, base in pairs)
    row: dict[str, Any] = {"engine": f"{engine} ({slots.backend.arithmetic})", "questions": len(asked)}
    row |= {"base_bit_equal": all(np.array_equal(*pair) for pair in pairs), "base_apart": float(f"{apart:.1e}")}
    single: dict[str | None, list[str]] = {}
    for name in (None, *STYLES):
        single[name] = [slots.generate(list(case.images), case.prompt, adapter=name, **GREEDY).text for case in asked]
        other = plain if name is None else opened(runs, name, engine)
        whole = [other.generate(list(case.images), case.prompt, **GREEDY).text for case in asked]
        differ = sum(a != b for a, b in zip(single[name], whole, strict=True))
        wanted = [case.answer if name is None else styled(name, case.answer) for case in asked]
        right = sum(a == b for a, b in zip(single[name], wanted, strict=True)) / len(asked)
        row |= {f"{name or 'base'}_differ": differ, f"{name or 'base'}_right": round(right, 4)}
    names = [name for name, _ in zip(cycle((*STYLES, None)), asked, strict=False)]
    together: list[str] = []
    for first in range(0, len(asked), ROWS):
        some = zip(asked[first : first + ROWS], names[first : first + ROWS], strict=True)
        asks = [{"image": list(case.images), "prompt": case.prompt, "adapter": name} for case, name in some]
        together += [answer.text for answer in slots.generate_batch(asks, **GREEDY)]
    row["batch_differ"] = sum(
        text != single[name][at] for at, (text, name) in enumerate(zip(together, names, strict=True))
    )
    return row


def page(rows: list[dict[str, Any]]) -> str:
    """Return the page of the figures."""
    heads = ["engine", "questions", "base, slots empty: bits equal", "largest difference of logits"]
    heads += [f"`{name}`: differ from merged, right" for name in STYLES]
    heads += ["base: differ, right", f"{ROWS} rows with {len(STYLES)} adapters and the base: differ from alone"]
    lines = ["| " + " | ".join(heads) + " |", "|---" + "|---:" * (len(heads) - 1) + "|"]
    for row in rows:
        cells = [row["engine"], row["questions"], "yes" if row["base_bit_equal"] else "no", f"{row['base_apart']:.1e}"]
        cells += [f"{row[f'{name}_differ']}, {row[f'{name}_right']:.3f}" for name in (*STYLES, "base")]
        lines.append("| " + " | ".join(map(str, [*cells, row["batch_differ"]])) + " |")
    shown = ", ".join(f"`{name}`: *{form.format('red')}*" for name, form in STYLES.items())
    return (
        "# Adapters at run time and merged: the same answers\n\n"
        f"Written by `{COMMAND}` in `examples`. Do not edit: run it again.\n\n"
        f"Adapters of rank {RANK} of all seven products of the bundled model's LLM, trained by "
        f"`python -m answer_styles.train` to say an answer otherwise ({shown}). *Merged* is an export with `--lora`, "
        "summed by peft in the checkpoint's float16; answers are greedy, of held-out questions about one picture, plan "
        "`safe`. Logits are those of 20 prompts and two tokens after each, by the largest of them. What slots cost: "
        "[adapters](../adapters.md).\n\n" + "\n".join(lines) + "\n"
    )


def main() -> None:
    """Read the command line, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=260, help="questions on ONNX Runtime; others get a fifth")
    args = parser.parse_args()
    exported(args.runs)
    asked = list(cases("heldout", args.count, 0, tuple(ONE_PICTURE)))
    few = asked[: max(ROWS, args.count // 5)]
    rows = [measured(args.runs, engine, asked if number == 0 else few) for number, engine in enumerate(ENGINES)]
    lines = ",\n".join(json.dumps(row) for row in rows)
    (args.out / "adapters.json").write_text(f'{{"rows": [\n{lines}\n]}}\n', encoding="utf-8")
    (args.out / "adapters.md").write_text(page(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
