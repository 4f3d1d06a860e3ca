"""Drafts on answers of a trained model: are they plain decoding's, how many tokens a step, and what is saved.

Run: ``python benchmarks/measure/speculation/compare.py answers BUNDLE[#PLAN][@BACKEND] OUT.json [--count 250]``, BUNDLE
of what ``answerer.py`` trained: every answer with drafts and without, in turns, on ONNX Runtime unless told. An answer
departs at its first other token; those before it are what was compared. With ``--schema`` the task ``json`` alone,
held to its schema, whose grammar drafts what it leaves no choice about: ``forced`` is their share of an answer's
tokens. ``--speculate draft:BUNDLE`` as ``run`` takes it. OUT.json has a record a line, written as it is measured; rows
that it has are not asked again. Then
``python benchmarks/measure/speculation/compare.py replay OUT.json BUNDLE#PLAN[@BACKEND]``: the same tokens, drafted and
accepted as they were, at the cost of another model's steps (a row takes what was recorded, whatever the logits say).
Both print Markdown, a line a task.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from answerer import QUESTIONS, task

from luvc_export.demo.scene import generator, render
from luvc_export.runtime.engine.job import Job
from luvc_export.runtime.engine.scheduler import Engine, began
from luvc_export.runtime.generation.logits import ForeseeingMask
from luvc_export.runtime.generation.sampling import Sampling
from luvc_export.runtime.generation.timing import DraftCounts
from luvc_export.runtime.model import StepResult
from luvc_export.runtime.prompt.request import Request
from luvc_export.runtime.session import Session


def _array(**more: Any) -> dict[str, Any]:
    return {"type": "array", "items": {"type": "object", **more}}


NO_IMAGES = np.zeros((0, 1, 1, 1, 3), np.uint8)
_STRING = {"type": "string"}
#: Of the task ``json``: texts are the model's to choose, and with ``free`` keys too, and how many there are.
SCHEMAS = {
    "named": _array(
        properties={"colour": _STRING, "digit": _STRING}, required=["colour", "digit"], additionalProperties=False
    ),
    "free": _array(additionalProperties=_STRING),
}
HEADS = (
    "task",
    "answers",
    "tokens",
    "answers that depart",
    "per 1,000 tokens",
    "right",
    "tokens a step",
    "acceptance length",
)
FORCED = "forced"
TIMES = ("ms plain (median)", "ms drafted (median)", "times faster: median (middle half)")


def line(kind: str, turns: list[dict[str, Any]], counts: DraftCounts) -> str:
    """Of the table: ratios are taken answer by answer, one after the other; an answer of one token has none."""
    ratios = [turn["plain"] / turn["drafted"] for turn in turns if turn["drafted"]]
    faster = "none"
    if len(ratios) > 1:
        low, middle, high = statistics.quantiles(ratios, n=4)
        faster = f"{middle:.2f} ({low:.2f} to {high:.2f})"
    tokens = statistics.mean(len(turn["ids"]) for turn in turns)
    plain, drafted = (1000 * statistics.median(turn[name] for turn in turns) for name in ("plain", "drafted"))
    right, same = (sum(turn[name] for turn in turns) for name in ("right", "same"))
    departing = [turn for turn in turns if turn["differs"]]
    rate = 1000 * len(departing) / max(1, same + len(departing))
    cells = [kind, str(len(turns)), f"{tokens:.0f}", str(len(departing)), f"{rate:.1f}", f"{right / len(turns):.2f}"]
    cells += [f"{counts.tokens_per_step or 1:.2f}", f"{counts.acceptance_length or 1:.2f}"]
    if FORCED in turns[0]:
        cells += [f"{sum(turn[FORCED] for turn in turns) / sum(len(turn['ids']) for turn in turns):.2f}"]
    cells += [f"{plain:.0f}", f"{drafted:.0f}", faster]
    return "| " + " | ".join(cells) + " |"


def opened(asked: str, backend: str, drafts: str, threads: int | None = None) -> tuple[Session, Session]:
    """``BUNDLE#PLAN@BACKEND`` without drafts and with them, of one loaded plan."""
    place, _, named = asked.partition("@")
    folder, _, plan = place.partition("#")
    plain = Session(folder, named or backend, plan or None, threads)
    return plain, Session(plain.bundle, plain.backend, plain.plan_name, threads, speculate=drafts)


def alike(one: list[int], other: list[int]) -> int:
    """How many tokens two answers begin with alike."""
    return next(
        (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(map(len, (one, other)))
    )


def forced(session: Session, ids: list[int], schema: dict[str, Any]) -> int:
    """How many tokens of an answer its schema left no choice about."""
    guided = session.default.grammars.guided(Sampling(json_schema=schema))
    assert guided.mask is not None
    mask = guided.mask()
    assert isinstance(mask, ForeseeingMask)
    return sum(list(mask.certain(ids[:place])[:1]) == [token] for place, token in enumerate(ids))


def answers(bundle: str, out: Path, count: int, threads: int, drafts: str, schema: dict[str, Any] | None) -> None:
    """Ask about ``count`` held-out pictures, every task, and keep what was said."""
    tasks, more = (["json"], {"json_schema": schema}) if schema else ([*QUESTIONS], {})
    plain, drafting = opened(bundle, "cpu", drafts, threads)
    kept: dict[str, list[dict[str, Any]]] = {kind: [] for kind in tasks}
    for text in out.read_text(encoding="utf-8").splitlines() if out.is_file() else ():
        turn = json.loads(text)
        kept[turn["task"]].append(turn)
    for session in (plain, drafting):
        session.generate(render(generator("train", 78, 0), "train")[0], QUESTIONS["list"], max_new_tokens=8)
    with out.open("a", encoding="utf-8") as file:
        for kind, index in ((kind, index) for index in range(count) for kind in tasks):
            if index < len(kept[kind]):
                continue
            image, scene = render(generator("heldout", 78, index), "heldout")
            question, wanted = task(kind, scene, np.random.default_rng([6, index]))
            both = [plain, drafting] if index % 2 else [drafting, plain]
            generated = {one: one.generate(image, question, max_new_tokens=120, greedy=True, **more) for one in both}
            one, other = generated[plain], generated[drafting]
            facts: dict[str, Any] = {"task": kind, "ids": one.token_ids}
            facts |= {"prompt": plain.prepare(image, question).token_ids}
            facts |= {"plain": one.timings.decode_ms / 1000, "drafted": other.timings.decode_ms / 1000}
            facts |= {"differs": one.token_ids != other.token_ids, "same": alike(one.token_ids, other.token_ids)}
            facts |= {"right": one.text == wanted, "counts": dataclasses.asdict(other.timings.drafts or DraftCounts())}
            facts |= {FORCED: forced(plain, one.token_ids, schema)} if schema else {}
            kept[kind].append(facts)
            file.write(json.dumps(facts) + "\n")
            file.flush()
    for kind, turns in kept.items():
        print(line(kind, turns, sum((DraftCounts(**turn["counts"]) for turn in turns), DraftCounts())), flush=True)


class Recorded:
    """A chooser that takes what was recorded. Follows ``sequence.TokenChooser``."""

    wants_logits = True

    def __init__(self, prompt: list[int], tokens: list[int]) -> None:
        self.prompt, self._tokens, self.budget = prompt, tokens, len(tokens)
        self.ids: list[int] = []

    @property
    def done(self) -> bool:
        """All are taken."""
        return len(self.ids) == self.budget

    @property
    def newest(self) -> int:
        """See ``TokenChooser``."""
        return self.ids[-1]

    def certain(self) -> tuple[int, ...]:
        """See ``TokenChooser``."""
        return ()

    def take(self, step: StepResult) -> None:
        """The next one."""
        self.ids.append(self._tokens[len(self.ids)])


def replay(file: Path, asked: str, count: int, drafts: str) -> None:
    """Replay ``count`` answers a task on another model."""
    plain, drafting = opened(asked, "openvino", drafts)
    placeholder = plain.bundle.manifest.prompt.image_token_id
    kept: dict[str, list[dict[str, Any]]] = {kind: [] for kind in QUESTIONS}
    for text in file.read_text(encoding="utf-8").splitlines():
        turn = json.loads(text)
        if len(kept[turn["task"]]) < count and len(turn["ids"]) > 1:
            kept[turn["task"]].append(turn)
    for kind, turns in kept.items():
        if not turns:
            print(f"| {kind} | 0: none has two tokens |" + " |" * (len(HEADS) + len(TIMES) - 2), flush=True)
            continue
        counts = DraftCounts()
        for number, turn in enumerate([turns[0], *turns]):  # the first one twice: once to warm up
            prompt = [token for token in turn["prompt"] if token != placeholder]
            for name, session in (("plain", plain), ("drafted", drafting)):
                chooser: Any = Recorded(prompt, turn["ids"])
                request = Request(tuple(prompt), NO_IMAGES, ())
                engine, job = Engine(answers=1), Job(session.default, request, lambda room, one=chooser: [one])  # type: ignore[misc]
                engine.submit(job)
                _, (answer,) = began(engine.step(), job)
                begun = perf_counter()
                while not answer.ended:
                    engine.step()
                turn[name] = perf_counter() - begun
                answer.check()
                counts += (answer.drafts or DraftCounts()) if number else DraftCounts()
        print(line(kind, turns, counts), flush=True)


def main() -> None:
    """Print one of the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["answers", "replay"])
    parser.add_argument("first")
    parser.add_argument("second")
    parser.add_argument("--count", type=int, default=250, help="answers a task")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--speculate", default="lookup")
    parser.add_argument("--schema", choices=[*SCHEMAS])
    args = parser.parse_args()
    heads = (*HEADS, *([FORCED] if args.schema else []), *TIMES)
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|", flush=True)
    if args.what == "answers":
        answers(args.first, Path(args.second), args.count, args.threads, args.speculate, SCHEMAS.get(args.schema))
    else:
        replay(Path(args.first), args.second, args.count, args.speculate)


if __name__ == "__main__":
    main()
