"""Questions in, plain answers out: what a local worker, a Ray actor and a user's own Dataset all call.

One bad row costs nobody else: whatever is wrong with it becomes its ``error``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from luvc_export.batch.job import BatchJob
from luvc_export.batch.source import Row
from luvc_export.batch.vectors import RowVectors
from luvc_export.core.options import settled
from luvc_export.errors import LuvcError, MachineError, shown
from luvc_export.runtime.engine.generate_batch import Prepared
from luvc_export.runtime.generation.sampling import OPTIONS, Sampling
from luvc_export.runtime.prompt.case_lines import case_id, parse_case, question_of
from luvc_export.runtime.prompt.question import Question
from luvc_export.runtime.prompt.template import template_values
from luvc_export.runtime.session import Session
from luvc_export.runtime.session_options import SessionOptions, session_options

#: Rows in turn that this machine may fail to answer; then it is the machine.
PATIENCE = 8
#: What is asked of a batch, not of a row.
OF_ALL_ROWS = dict.fromkeys((*OPTIONS, "image_tokens", "chat_template_kwargs"), "the whole batch")


@dataclass(frozen=True)
class Answer:
    """An answer, or why there is none.

    Args:
        text: Of the answer; None where there is an error.
        finish_reason: ``stop`` or ``length``.
        tokens: Made, the end token included.
        timings: Of the rows that ran together (``Timings.to_json``).
        error: Kind and text of what was wrong.
        video: How much of the row's video was looked at (``FramesTaken.to_json``); None without one, or with several.
        vectors: In the place of a text, see ``RowVectors.texts``.
    """

    text: str | None = None
    finish_reason: str | None = None
    tokens: int = 0
    timings: dict[str, Any] | None = None
    error: str | None = None
    video: dict[str, Any] | None = None
    vectors: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {name: value for name, value in self.__dict__.items() if name != "vectors" or value is not None}


class Answerer:
    """A session that answers rows in batches.

    Args:
        bundle: Folder of the bundle.
        options: Of the session; None for what is usual.
        sampling: Fields of ``Sampling``, for every row.
        rows: Questions of one model call, at most.
        chat_template_kwargs: Variables of the chat template for every row.
        vectors: Fields of ``VectorOptions``, of a bundle that decodes nothing; None for one that answers.
        **settings: Fields of ``SessionOptions`` by name; ``lora`` also as ``NAME=FOLDER`` texts, see ``BatchJob``.

    Raises:
        LuvcError: See ``Session``.
    """

    def __init__(
        self,
        bundle: str | Path,
        options: SessionOptions | None = None,
        *,
        sampling: Mapping[str, Any] | None = None,
        rows: int = 8,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        vectors: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        self._session = Session(bundle, options=settled(SessionOptions, options, settings, "Answerer"))
        names = self._session.adapters.names
        #: Of rows that name none.
        self._adapter = names[0] if len(names) == 1 else None
        self._vectors = None if vectors is None else RowVectors(self._session.bundle, vectors)
        self._options = self._session.sampling(sampling or {}) if self._vectors is None else Sampling()
        self._values = template_values(chat_template_kwargs)
        self._rows, self._failed = rows, 0
        self._spent: dict[int, float] = {}
        self._session.load(images=False)

    @classmethod
    def of(cls, job: BatchJob) -> Answerer:
        """The session that a batch asks for. Raises what ``Session`` raises."""
        more: dict[str, Any] = {"sampling": job.sampling, "chat_template_kwargs": job.chat_template_kwargs}
        more["vectors"] = job.vectors if job.embeds else None
        return cls(job.bundle, SessionOptions(**session_options(job)), rows=job.rows, **more)

    def answer_lines(self, rows: Sequence[Row], path: Path, folder: Path) -> list[tuple[str | int | None, Answer]]:
        """Answer rows of a file: each row's id, where it has one, and answer.

        ``path`` is the file's name, for errors; ``folder`` is what its paths are relative to.

        Raises:
            MachineError: See ``answer``.
        """

        def ask(row: Row) -> Question:
            where = f"{path}: line {row.where}"
            case = parse_case(row.line, where, folder, OF_ALL_ROWS, alone=self._vectors is not None)
            if self._vectors is not None:
                return self._vectors.question(case)
            asked = question_of(case.images, case.prompt, case.video, case.fps, self._session.video_frames())
            return replace(asked, adapter=self._session.adapters.find(case.adapter))

        answers = self.answer([partial(ask, row) for row in rows])
        return [*zip((case_id(row.line) for row in rows), answers, strict=True)]

    def answer(self, asked: Sequence[Callable[[], Question]]) -> list[Answer]:
        """Answer questions; those of one plan and number of pictures share model calls.

        Whatever one of ``asked`` raises becomes that row's error.

        Raises:
            MachineError: ``PATIENCE`` rows in turn could not be answered by this machine.
        """
        answers: dict[int, Answer] = {}
        ready: dict[int, Prepared] = {}
        self._spent = {}
        for place, ask in enumerate(asked):
            started = perf_counter()
            try:
                question = ask()
                if self._vectors is None:
                    question = replace(question, values=self._values)
                if question.adapter is None:
                    question = replace(question, adapter=self._session.adapters.find(self._adapter))
                ready[place] = self._session.prepare_row(question, self._options)
                self._spent[place] = perf_counter() - started
            except Exception as error:
                answers[place] = Answer(error=error_text(error))
        places = [*ready]
        for group in self._session.batches_of([*ready.values()], self._rows):
            self._answer_group([places[one] for one in group], ready, answers)
        return [answers[place] for place in range(len(asked))]

    def _answer_group(self, group: list[int], ready: dict[int, Prepared], answers: dict[int, Answer]) -> None:
        spent = sum(self._spent[place] for place in group)
        try:
            results = self._answers([ready[place] for place in group], spent)
        except Exception as error:
            if len(group) > 1:  # whose fault it is shows alone
                for place in group:
                    self._answer_group([place], ready, answers)
                return
            self._failed = self._failed + 1 if isinstance(error, MachineError | MemoryError) else 0
            if self._failed >= PATIENCE:
                raise MachineError("this machine answers no more", got=f"{PATIENCE} rows failed: {error}") from error
            answers[group[0]] = Answer(error=error_text(error))
            return
        self._failed = 0
        answers.update(zip(group, results, strict=True))

    def _answers(self, ready: list[Prepared], spent: float) -> list[Answer]:
        if self._vectors is not None:
            return [Answer(vectors=one) for one in self._vectors.texts(ready)]
        answers = []
        for row, one in zip(ready, self._session.answer_rows(ready, self._options, spent), strict=True):
            taken = row.request.taken
            video = taken[0].to_json() if len(taken) == 1 else None
            ended = one.finish_reason, len(one.token_ids), one.timings.to_json()
            answers.append(Answer(one.text, *ended, video=video))
        return answers


def error_text(error: Exception) -> str:
    """An error as one line: its kind and parts."""
    if isinstance(error, LuvcError):
        return f"{type(error).__name__}: " + "; ".join(part.strip() for part in str(error).splitlines())
    return shown(f"internal error: {type(error).__name__}: {error}"[:1000])
