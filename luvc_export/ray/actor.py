"""The class that ``Dataset.map_batches`` runs: one session for each actor, tables in, tables with answers out."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from luvc_export.batch.answerer import OF_ALL_ROWS
from luvc_export.batch.answerer import Answerer as RowAnswerer
from luvc_export.errors import UsageError, did_you_mean
from luvc_export.runtime.generation.sampling import OPTIONS
from luvc_export.runtime.prompt.question import Question, question
from luvc_export.runtime.prompt.request_fields import KNOWN, check_fields, hint
from luvc_export.runtime.session_options import SessionOptions

if TYPE_CHECKING:
    import pyarrow
    import ray.data

#: Columns that are read; the others stay as they are.
COLUMNS = ("image", "prompt", "messages", "video", "fps")
#: Columns that would be options, as other doors have them.
_OPTIONS = frozenset({*KNOWN, *OF_ALL_ROWS} - {*COLUMNS})
#: Times that rows go to another actor after theirs died, and that an actor is started again. Ray Data's own default is
#: for ever: rows that kill whoever answers them, or a bundle that does not fit a node, would never end.
TASK_RETRIES, RESTARTS = 5, 20


class Answerer:
    """Answers rows of a Dataset: ``dataset.map_batches(Answerer, batch_format="pyarrow", ...)``.

    Columns: ``prompt`` (text) or ``messages`` (a chat as JSON); ``image`` (a path, an encoded picture's bytes, pixels,
    or a list of them); ``video`` (a list of frames) with ``fps``. Added are ``text``, ``finish_reason``, ``tokens``,
    ``timings`` (JSON) and ``error``, which is null where there is an answer.

    Args:
        bundle: Folder of the bundle, on every node.
        options: ``plan``, ``backend``, ``threads``, ``arithmetic``, ``sampling`` (fields of ``Sampling``), ``rows`` (of
            one model call, at most), and others of ``luvc_export.batch.answerer.Answerer``.

    Raises:
        LuvcError: An unknown option; or see ``Session``.
    """

    def __init__(self, bundle: str, **options: Any) -> None:
        check_options(options)
        self._answerer = RowAnswerer(bundle, **options)

    def __call__(self, table: pyarrow.Table) -> pyarrow.Table:
        """Answer the rows of an Arrow table.

        Raises:
            UsageError: There is neither ``prompt`` nor ``messages``, or a column that an answer would hide, or one that
                would be an option and is not read.
            MachineError: This machine answers no more.
        """
        import pyarrow as pa

        names = set(table.column_names)
        if not names & {"prompt", "messages"}:
            expected = f"a column prompt or messages; {did_you_mean('prompt', names)}"
            raise UsageError("the rows have no question", where="Dataset", expected=expected)
        kinds = {"text": pa.string(), "finish_reason": pa.string(), "tokens": pa.int32()}
        kinds |= {"timings": pa.string(), "error": pa.string()}
        if taken := sorted(names & kinds.keys()):
            listed = ", ".join(taken)
            raise UsageError("a column has the name of an answer's", where="Dataset", got=listed, fix="rename it")
        check_columns({name: table[name].to_pylist() for name in names & _OPTIONS})
        columns = {name: table[name].to_pylist() for name in COLUMNS if name in names}
        asked = [ask_of({name: items[row] for name, items in columns.items()}) for row in range(table.num_rows)]
        answers = [answer.to_json() for answer in self._answerer.answer(asked)]
        for answer in answers:
            answer["timings"] = None if answer["timings"] is None else json.dumps(answer["timings"])
        for name, kind in kinds.items():
            table = table.append_column(name, pa.array([answer[name] for answer in answers], kind))
        return table


def check_columns(columns: Mapping[str, Sequence[Any]]) -> None:
    """Refuse columns that would change answers and are not read.

    Raises:
        UsageError: A value of one asks for something.
    """
    where = "Dataset (rename columns that are no options)"
    for name, values in columns.items():
        for value in values:
            check_fields({name: value}, COLUMNS, "a row of a Dataset", where, OF_ALL_ROWS, exact=True)


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse options that ``Answerer`` has not.

    Raises:
        UsageError: There is one.
    """
    own = {*inspect.signature(RowAnswerer).parameters, *SessionOptions.__dataclass_fields__} - {"settings"}
    for name in options:
        if name not in own:
            fix = hint(name, own, dict.fromkeys(OPTIONS, "sampling"))
            raise UsageError("Answerer has no such option", where="Ray", got=name, fix=fix)


def ask_of(row: dict[str, Any]) -> Callable[[], Question]:
    """What gives a row's question."""

    def ask() -> Question:
        messages, fps = row.get("messages"), row.get("fps")
        chat = json.loads(messages) if isinstance(messages, str) else messages
        return question(row.get("image"), row.get("prompt"), chat, row.get("video"), fps)

    return ask


def answer_dataset(
    dataset: ray.data.Dataset,
    bundle: str,
    actors: int = 1,
    num_cpus: float = 1.0,
    num_gpus: float = 0.0,
    batch_size: int = 32,
    **options: Any,
) -> ray.data.Dataset:
    """``dataset`` with answers, lazily: nothing runs until it is read or written.

    Args:
        dataset: See ``Answerer`` for its columns.
        bundle: Folder of the bundle, on every node.
        actors: Sessions; each loads the bundle once.
        num_cpus: CPUs that Ray gives each, and threads where ``options`` say nothing.
        num_gpus: GPUs that Ray gives each; a share, such as 0.5, for two on one.
        batch_size: Rows that an actor gets at a time; of these, rows of equal plans share model calls.
        options: See ``Answerer``.

    Raises:
        UsageError: An unknown option.
    """
    check_options(options)
    arguments = {"threads": max(1, int(num_cpus)), **options}
    return dataset.map_batches(
        Answerer,
        fn_constructor_args=(bundle,),
        fn_constructor_kwargs=arguments,
        batch_format="pyarrow",
        batch_size=batch_size,
        **placed(actors, num_cpus, num_gpus),
    )


def placed(actors: int, num_cpus: float, num_gpus: float) -> dict[str, Any]:
    """Options of ``map_batches``: a pool of actors, what each takes, and when Ray gives up on them."""
    import ray.data

    return {
        "compute": ray.data.ActorPoolStrategy(size=actors),
        "num_cpus": num_cpus,
        "num_gpus": num_gpus,
        "ray_remote_args_fn": lambda: {"max_task_retries": TASK_RETRIES, "max_restarts": RESTARTS},
    }
