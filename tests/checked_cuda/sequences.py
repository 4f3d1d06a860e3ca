"""Random sequences of what is done with a session on engines: turns, batches, cancels, states kept, engines unloaded.

Engines are ONNX Runtime on the memory of the checked driver (``ort_engine``), so each answer is compared with the one
that the CPU session gives alone, and every call of the driver is checked on the way.
"""

from __future__ import annotations

import gc
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ort_engine
import pytest
from growing import Growing
from ort_engine import Engines

from checked_cuda.driver import CheckedDriver, checked_gpu
from luvc_export.bundle.folder import Bundle
from luvc_export.demo.questions import cases
from luvc_export.runtime.engine.job import Answer
from luvc_export.runtime.session import Session

PLAN, SLOTS, QUESTIONS, LONGEST = "thirds", 3, 5, 5
FORMS = ("concat", "inplace")


@dataclass
class Asked:
    """A question and the tokens the CPU session answers alone."""

    image: Any
    prompt: str
    answer: tuple[int, ...]


@dataclass
class Counts:
    """What ran."""

    sequences: int = 0
    calls: int = 0
    kinds: dict[str, int] = field(default_factory=dict)


def asked(bundle: Bundle, plan: str = PLAN) -> list[Asked]:
    """Questions of different lengths, with their answers."""
    session = Session(bundle, plan=plan, threads=1)
    session.default.ends = frozenset()
    kinds = ("digit_of_colour", "where_is")
    questions = []
    for seed in range(QUESTIONS):
        case = next(cases("heldout", 1, seed, (kinds[seed % 2],)))
        prompt = case.prompt + " please" * (seed % 3)
        answer = session.generate(case.images[0], prompt, max_new_tokens=LONGEST).token_ids
        questions.append(Asked(case.images[0], prompt, answer))
    return questions


def engines(bundle: Bundle, plan: str = PLAN) -> dict[str, Engines]:
    """The forms of caches that the plan's engines have, with room for a batch."""
    capacity = ort_engine.Capacity(text=96, groups=2, batch=SLOTS)
    forms = FORMS if bundle.entry(plan).caches is None else ("append",)
    return {kv: ort_engine.describe(bundle, plan, kv, capacity) for kv in forms}


class Machine:
    """One session on a GPU of its own, and what its user still holds.

    Args:
        made: Engines.
        questions: What is asked.
        chance: Draws everything.
        graphs: Capture CUDA graphs.
    """

    def __init__(self, engine: Engines, questions: list[Asked], chance: random.Random, graphs: bool) -> None:
        with pytest.MonkeyPatch.context() as patch:
            self.gpu, self.driver = checked_gpu(patch)
        self.questions, self.chance = questions, chance
        self.session = Session(engine.bundle, engine.backend(self.gpu, graphs=graphs)[0], engine.plan)
        self.session.default.ends = frozenset()
        self.held: list[Any] = []
        self.batch: Growing | None = None
        self.rows: list[tuple[Answer, Asked, int]] = []
        self.kinds: dict[str, int] = {}

    def sequence(self) -> None:
        """One to four things, and then all rows to their end or away."""
        doings: list[Callable[[], None]] = [
            self.turn, self.turn, self.leave_early, self.again, self.join, self.join, self.step, self.cancel, self.drop,
            self.unload,
        ]  # fmt: skip
        for _ in range(self.chance.randint(1, 4)):
            doing = self.chance.choice(doings)
            self.kinds[doing.__name__] = self.kinds.get(doing.__name__, 0) + 1
            doing()
        while self.rows:
            (self.cancel if self.chance.random() < 0.2 else self.step)()

    def turn(self) -> None:
        """An answer, sometimes kept with its caches."""
        one, length = self._draw()
        answer = self.session.generate(one.image, one.prompt, max_new_tokens=length)
        assert answer.token_ids == one.answer[:length]
        if self.chance.random() < 0.3:
            self.held.append(answer)

    def leave_early(self) -> None:
        """A stream that nobody reads to its end."""
        one, length = self._draw()
        stream = self.session.generate(one.image, one.prompt, max_new_tokens=LONGEST, stream=True)
        for _ in range(length - 1):
            next(stream, None)
        stream.close()

    def again(self) -> None:
        """Two ways on from one state."""
        one, _ = self._draw()
        request = self.session.prepare(one.image, one.prompt)
        first = self.session.default.run(request.token_ids, self.session.default.encode_images(request.images))
        left = self.session.default.run([5], state=first.state)
        right = self.session.default.run([6], state=first.state)
        assert (left.logits != right.logits).any()
        assert (self.session.default.run([5], state=first.state).logits == left.logits).all()

    def join(self) -> None:
        """A row more, where there is room."""
        one, length = self._draw()
        self.batch = self.batch or Growing(self.session)
        request = self.session.prepare(one.image, one.prompt)
        if not self.batch.room(request):
            return self.step()
        (row,) = self.batch.join([request], [length])
        self.rows.append((row, one, length))
        return self._settle()

    def step(self) -> None:
        """A token for every row."""
        if self.batch is not None and self.batch.rows:
            self.batch.step()
        self._settle()

    def cancel(self) -> None:
        """A row goes before its end."""
        if self.rows and self.batch is not None:
            row, _, _ = self.rows.pop(self.chance.randrange(len(self.rows)))
            self.batch.drop(row)
        if self.batch is not None and not self.rows and self.chance.random() < 0.5:
            self.batch = None

    def drop(self) -> None:
        """What was kept is wanted no longer."""
        self.held = self.held[self.chance.randint(0, len(self.held)) :]

    def unload(self) -> None:
        """Another plan took the place of this one."""
        self.session.backend.unload()  # type: ignore[attr-defined]

    def close(self) -> CheckedDriver:
        """Let all go; nothing may be left.

        Raises:
            Violation: Something was not allowed, or is left.
        """
        driver = self.driver
        del self.held, self.rows, self.batch, self.session, self.gpu
        gc.collect()
        driver.finish()
        return driver

    def _settle(self) -> None:
        for row, one, length in [item for item in self.rows if item[0].ended]:
            row.check()
            assert tuple(row.chooser.ids) == one.answer[:length]
            self.rows = [item for item in self.rows if item[0] is not row]

    def _draw(self) -> tuple[Asked, int]:
        return self.chance.choice(self.questions), self.chance.randint(1, LONGEST)


def run(bundle: Bundle, seed: int, sequences: int, of_a_machine: int = 50, plan: str = PLAN) -> Counts:
    """Run ``sequences`` under ``plan``; every ``of_a_machine`` of them on a new GPU.

    Raises:
        AssertionError: A violation, or an answer that differs; it names the seed.
    """
    by_form, questions, counts = engines(bundle, plan), asked(bundle, plan), Counts()
    for number in range(0, sequences, of_a_machine):
        chance = random.Random(f"{seed} {number}")
        form = list(by_form)[number // of_a_machine % len(by_form)]
        machine = Machine(by_form[form], questions, chance, chance.random() < 0.8)
        for place in range(number, min(number + of_a_machine, sequences)):
            try:
                machine.sequence()
            except AssertionError as error:
                raise AssertionError(f"seed {seed}, sequence {place}: {error}") from error
            counts.sequences += 1
        for name, count in machine.kinds.items():
            counts.kinds[name] = counts.kinds.get(name, 0) + count
        counts.calls += sum(machine.close().calls.values())
    return counts
