"""What a reduced head costs and gives, and docs/results/vocabulary.json and .md.

Run: python benchmarks/measure/vocabulary.py FOLDER [PART]. Two halves. The bundled model, whose 448 tokens are cut to
fewer, chosen by 200 questions of its training split: answers and the perplexity of right answers on 60 held-out ones,
beside the full head. And a model of random weights with 262,144 tokens (the text sizes of Gemma 3 270M): decode steps
of both heads in turns, beside the bytes that a step reads. Bundles in FOLDER are used again, so that a second run times
alone; ``decode`` or ``answers`` after FOLDER measures that half again and keeps the other.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from luvc_export import export_bundle
from luvc_export.core.graph_io import ABSENT
from luvc_export.demo import CHECKPOINT
from luvc_export.demo.questions import cases
from luvc_export.runtime.session import Session

PAGE = Path(__file__).resolve().parents[2] / "docs" / "results" / "vocabulary.md"
ASKED, LEARNED_FROM = 60, 200
SMALL = (400, 320)
STEPS = 24
ROWS, KEPT = 262_144, (65_536, 32_768)
HEAD = """# Reduced vocabularies

Written by `python benchmarks/measure/vocabulary.py FOLDER`. `export --vocab` gives the head rows for some tokens alone;
embeddings and ids stay, so prompts are read as before, and what samples or masks tokens knows them by their ids.

## Answers

The bundled model, plan `none`, {asked} held-out questions. Tokens are chosen by {learned} questions and answers of the
training split. Perplexity is that of those right answers whose tokens, with the one that ends them, all have rows;
their share stands beside it. Others can be written in shorter tokens, which the model was not trained to say.

| rows | of | right | answers equal to the full head's | right answers with all rows | their perplexity |
|---|---|---|---|---|---|
"""
SPEED = """
## Decode

A model of random weights with the text sizes of Gemma 3 270M and 262,144 tokens, plan `none`, fp32, text alone; medians
of steps taken in turns with the full head. {machine}

| rows | weights a step reads, MB | of the full head's | decode step, ms | of the full head's |
|---|---|---|---|---|
"""


def answers(folder: Path) -> list[dict[str, Any]]:
    """One record a head of the bundled model."""
    data = folder / "cases.jsonl"
    learned = islice(cases("train", LEARNED_FROM), LEARNED_FROM)
    lines = [json.dumps({"prompt": one.prompt, "answer": one.answer}) for one in learned]
    data.write_text("\n".join(lines) + "\n", encoding="utf-8")
    questions, records, first = list(cases("heldout", ASKED)), list[dict[str, Any]](), list[tuple[int, ...]]()
    for rows in (None, *SMALL):
        bundle = folder / f"demo-{rows}"
        if not bundle.is_dir():
            choice = {} if rows is None else {"vocab": rows, "vocab_data": data}
            export_bundle(str(CHECKPOINT), bundle, "none", **choice)  # type: ignore[arg-type]
        session = Session(bundle, "cpu", arithmetic="fp32")
        generated = [session.generate(list(one.images), one.prompt, max_new_tokens=8, greedy=True) for one in questions]
        first = first or [one.token_ids for one in generated]
        surprise = [_surprise(session, one.images, one.prompt, one.answer) for one in questions]
        within = [one for one in surprise if max(one) < -ABSENT / 2]
        records.append(
            {
                "rows": session.bundle.manifest.head_rows,
                "of": session.bundle.manifest.decoder.vocab,
                "right": sum(a.text.strip() == q.answer for a, q in zip(generated, questions, strict=True)) / ASKED,
                "equal": sum(a.token_ids == full for a, full in zip(generated, first, strict=True)) / ASKED,
                "written": len(within) / ASKED,
                "perplexity": math.exp(sum(map(sum, within)) / sum(map(len, within))),
            }
        )
    return records


def _surprise(session: Session, images: Any, prompt: str, answer: str) -> list[float]:
    """Minus the log probability of each token of the right answer and of what ends it."""
    plan, request = session.default, session.prepare(list(images), prompt)
    ids = [*plan.encoder.tokenizer.encode(answer, add_special_tokens=False).ids]
    ids += session.bundle.manifest.prompt.eos_token_ids[:1]
    seen = plan.encode_images(request.images, request.padding)
    step = plan.run([*request.token_ids, *ids], seen, blocks=request.blocks, all_logits=True)
    rows = step.logits[0, -len(ids) - 1 : -1].astype(np.float64)
    largest = rows.max(-1)
    total = largest + np.log(np.exp(rows - largest[:, None]).sum(-1))
    return [float(total[at] - rows[at, token]) for at, token in enumerate(ids)]


def large(folder: Path) -> None:
    """Bundles of the random model: the full head and the reduced ones."""
    config = {
        "architectures": ["Idefics3ForConditionalGeneration"],
        "model_type": "idefics3",
        "image_token_id": 300,
        "scale_factor": 4,
        "tie_word_embeddings": True,
        "text_config": {
            "model_type": "llama",
            "hidden_size": 640,
            "intermediate_size": 2048,
            "num_hidden_layers": 18,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "head_dim": 256,
            "max_position_embeddings": 4096,
            "vocab_size": ROWS,
            "tie_word_embeddings": True,
            "pad_token_id": 2,
        },
        "vision_config": {
            "model_type": "idefics3_vision",
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 64,
            "patch_size": 8,
        },
    }
    checkpoint, pictures = folder / "random", {"longest_edge": 64}
    if not checkpoint.is_dir():
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        processor = {"image_processor_type": "Idefics3ImageProcessor", "size": pictures, "max_image_size": pictures}
        (folder / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")
        _command("make-random", folder / "config.json", "-o", checkpoint, "--dtype", "fp32")
    for rows in (None, *KEPT):
        chosen = folder / f"{rows}.json"
        chosen.write_text(json.dumps([*range(rows or 0)]), encoding="utf-8")
        if not (folder / f"random-{rows}").is_dir():
            export_bundle(str(checkpoint), folder / f"random-{rows}", "none", vocab=chosen if rows else None)


def decode(folder: Path) -> list[dict[str, Any]]:
    """One record a reduced head: a step of it and of the full one, in turns, and the weights each reads."""
    records = list[dict[str, Any]]()
    for rows in KEPT:
        shape = ("--images", 0, "--text", 16, "--new-tokens", STEPS + 1, "--repeats", 5, "--arithmetic", "fp32")
        words = ("bench", folder / "random-None", "--vs", folder / f"random-{rows}", *shape, "--json")
        record = json.loads(_command(*words))
        full, small = (
            {"bytes": case["facts"]["decode_bytes"], "step_ms": case["stats"]["decode_ms"]["median"] / STEPS}
            for case in record["cases"]
        )
        backend = record["cases"][0]["facts"]["backend"]
        records.append({"rows": rows, "small": small, "full": full, "backend": backend, "machine": record["machine"]})
    return records


def page(asked: list[dict[str, Any]], timed: list[dict[str, Any]]) -> str:
    """Both tables."""
    lines = [
        f"| {one['rows']} | {one['of']} | {one['right']:.3f} | {one['equal']:.3f} | {one['written']:.3f} |"
        f" {one['perplexity']:.4f} |"
        for one in asked
    ]
    machine, backend = timed[0]["machine"], timed[0]["backend"]
    note = f"{backend}, {machine['threads']} threads, {', '.join(machine['cpu_features'])}."
    steps = [(ROWS, timed[0]["full"], timed[0]["full"]), *((one["rows"], one["small"], one["full"]) for one in timed)]
    speeds = [
        f"| {rows:,} | {one['bytes'] / 1e6:.0f} | {one['bytes'] / full['bytes']:.2f} | {one['step_ms']:.1f} |"
        f" {one['step_ms'] / full['step_ms']:.2f} |"
        for rows, one, full in steps
    ]
    first = HEAD.format(asked=ASKED, learned=LEARNED_FROM) + "\n".join(lines) + "\n"
    return first + SPEED.format(machine=note) + "\n".join(speeds) + "\n"


def _command(*words: object) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "luvc_export", *map(str, words)], check=True, capture_output=True, text=True
    )
    return done.stdout


if __name__ == "__main__":
    root, figures = Path(sys.argv[1]), PAGE.with_suffix(".json")
    root.mkdir(exist_ok=True)
    large(root)
    known = json.loads(figures.read_text(encoding="utf-8")) if figures.is_file() else []
    for part in sys.argv[2:] or ("answers", "decode"):
        measured = {"answers": answers, "decode": decode}[part](root)
        known = [one for one in known if one["part"] != part] + [{"part": part, **one} for one in measured]
    figures.write_text("[\n" + ",\n".join(map(json.dumps, known)) + "\n]\n", encoding="utf-8")
    halves = [[one for one in known if one["part"] == part] for part in ("answers", "decode")]
    if all(halves):
        PAGE.write_text(page(*halves), encoding="utf-8")
