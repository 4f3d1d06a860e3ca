"""Memory of a plan and the variants that answer beside it: all of them open, and one at a time.

Each is a process of its own, in which every plan answers once about noise.
"""

from __future__ import annotations

from dataclasses import dataclass

from luvc_export.bundle.folder import load
from luvc_export.bundle.variants import answering
from luvc_export.errors import MachineError
from luvc_export.runtime.bench.case import BenchCase
from luvc_export.runtime.bench.loaded_case import Held
from luvc_export.runtime.bench.worker import Worker


@dataclass(frozen=True)
class OpenPlans:
    """A plan and its variants.

    Args:
        plans: Their names, the plan's own first.
        together: All of them open.
        evicted: At most one that packs weights of its own (``--open-plans 1``).
        refusal: Why ``together`` is unknown: what the machine lacks.
    """

    plans: tuple[str, ...]
    together: Held | None
    evicted: Held
    refusal: str | None = None


def measure_open_plans(case: BenchCase) -> OpenPlans | None:
    """Measure a case's plan with its variants for other sizes, clips, tiles and units; None where it has none.

    Raises:
        LuvcError: See ``Worker``: one plan alone does not fit.
    """
    bundle = load(case.bundle)
    own = bundle.name_of(case.plan)
    names = (own, *sorted(answering(bundle.manifest, own) - {own}))
    if len(names) == 1:
        return None
    evicted = _in_process(case, names, 1)
    try:
        return OpenPlans(names, _in_process(case, names, len(names)), evicted)
    except MachineError as error:
        return OpenPlans(names, None, evicted, str(error))


def _in_process(case: BenchCase, names: tuple[str, ...], most: int) -> Held:
    with Worker(case, opened=(names, most)) as worker:
        held: Held = worker.held()
        return held
