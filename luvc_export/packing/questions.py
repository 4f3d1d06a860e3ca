"""What a pack asks: a user's cases, a task's or drawn ones, and the bundle's own answers to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from luvc_export.bundle.folder import Bundle
from luvc_export.calibration import tasks
from luvc_export.calibration.cases import Case, read_jsonl
from luvc_export.calibration.drawn import DrawnCase
from luvc_export.calibration.tasks import Task
from luvc_export.engines.profiles import Capacity
from luvc_export.errors import MachineError, Progress, UsageError
from luvc_export.packing.answer import Answer, answer
from luvc_export.packing.record import CasesKind
from luvc_export.runtime.session import Session

#: Questions a task may have about one picture; more of them only mean fewer cases than asked for.
_QUESTIONS = 64
_PROMPTS = ("Describe the picture.", "What is in the middle?", "Which colours are there?", "What stands out?")
#: Tokens of an answer where nobody says how many.
_LONGEST = 8


@dataclass(frozen=True)
class PackCases:
    """Questions a pack stores, and of what kind they are."""

    kind: CasesKind
    cases: Sequence[Case]
    longest: int = _LONGEST


#: What to ask, given the session that answers and the capacity of the engines.
Choose = Callable[[Session, Capacity], PackCases]


def questions(cases: Path | None, task: str | None, count: int, alone: bool) -> Choose:
    """What to ask, once the session that answers is known; ``alone``: of pictures without a prompt too."""
    file_cases = list(islice(read_jsonl(cases, alone), count)) if cases else None
    known_task = tasks.find(task) if task else None
    if known_task is not None:
        known_task.of_pictures("pack", "leave it out: the pack is then checked on pictures of its own")

    def choose(session: Session, capacity: Capacity) -> PackCases:
        if file_cases is not None:
            return PackCases("file", file_cases)
        if known_task is not None:
            return PackCases("task", of_task(known_task, count, capacity.groups), known_task.longest)
        return PackCases("generated", generated(session.size, count))

    return choose


def generated(size: tuple[int, int], count: int) -> list[Case]:
    """Pictures of ``size`` (height, width) and fixed prompts for a checkpoint that no task is known of.

    They compare numbers and ask nothing sensible. Every pixel differs from its neighbours, so that no two visual
    tokens are equal and a tie does not decide which of them stays.
    """
    prompts = (_PROMPTS[seed % len(_PROMPTS)] for seed in range(count))
    return [DrawnCase((_picture(size, seed),), asked, "generated", seed) for seed, asked in enumerate(prompts)]


def of_task(task: Task, count: int, images: int) -> list[Case]:
    """``count`` questions of a task's report split, each about other pictures, ``images`` at most; kinds in turn."""
    split, seed = task.report
    chosen: list[Case] = []
    questions = (case for case in task.cases(split, _QUESTIONS * count, seed) if len(case.images) <= images)
    for index, (_, group) in enumerate(groupby(questions, lambda case: case.picture)):
        about = list(group)
        chosen.append(about[index % len(about)])
        if len(chosen) == count:
            break
    return chosen


def _picture(size: tuple[int, int], seed: int) -> NDArray[np.uint8]:
    """A few soft blobs of colour under fine noise."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize(
        size[::-1], Image.Resampling.BICUBIC
    )
    noise = random.integers(-24, 25, (*size, 3))
    mixed: NDArray[np.uint8] = np.clip(np.asarray(coarse, np.int64) + noise, 0, 255).astype(np.uint8)
    return mixed


def reference(
    bundle: Bundle,
    plan: str | None,
    capacity: Capacity,
    chosen: Choose,
    progress: Progress,
) -> tuple[PackCases, list[Answer]]:
    """Questions, and the bundle's own answers to them."""
    if bundle.manifest.dtype == "bf16":
        raise MachineError(
            "the reference answers are made on the CPU, which computes nothing in bf16",
            where=str(bundle.folder),
            fix="export with --dtype fp32 (weights stay as they are) and pack with --precision bf16",
        )
    session = Session(bundle, "cpu", plan)
    asked = chosen(session, capacity)
    if not bundle.manifest.does.decodes and bundle.manifest.does.pooling == "every":
        asked = replace(asked, cases=[part for case in asked.cases for part in _alone(case)])
    elif not bundle.manifest.does.decodes and asked.kind == "generated":
        in_turns = [[case, *_alone(case)][place % 3] for place, case in enumerate(asked.cases)]
        asked = replace(asked, cases=in_turns)
    answers = []
    for index, case in enumerate(asked.cases):
        progress("reference answers", index / len(asked.cases))
        reply = answer(session, case.images, case.prompt, asked.longest)
        check_room(reply, bundle.manifest.prompt.image_token_id, capacity, f"case {index}: {case.prompt[:40]!r}")
        answers.append(reply)
    progress("reference answers", 1.0)
    return asked, answers


def _alone(case: Case) -> list[Case]:
    """A page and a query by themselves."""
    parts = [((image,), "") for image in case.images] + [((), case.prompt)] * bool(case.prompt)
    return [DrawnCase(images, prompt, case.kind, case.picture) for images, prompt in parts]


def check_room(case_answer: Answer, placeholder: int, capacity: Capacity, where: str) -> None:
    """Check that an answered case fits engines of ``capacity``.

    Raises:
        UsageError: It has more images or text.
    """
    images = case_answer.prompt_ids.count(placeholder)
    text = len(case_answer.prompt_ids) - images + len(case_answer.token_ids)
    for what, count, most, flag in (
        ("images", images, capacity.groups, "--images"),
        ("text tokens", text, capacity.text, "--text-capacity"),
    ):
        if count > most:
            raise UsageError(
                f"a case has more {what} than the engines take",
                where=where,
                got=count,
                expected=f"at most {most}",
                fix=f"{flag} {count}",
            )
