"""Memory of a plan and the variants that answer beside it: all of them open, and one at a time.

Each is a process of its own, in which every plan answers once about noise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from luvc_export.bundle.folder import load
from luvc_export.bundle.plans.variants import answering
from luvc_export.errors import MachineError
from luvc_export.runtime.bench.case import BenchCase
from luvc_export.runtime.bench.worker import Worker
from luvc_export.runtime.memory import anonymous_bytes, peak_bytes
from luvc_export.runtime.session import Session

_MIB = 2**20


@dataclass(frozen=True)
class Held:
    """Memory of a process in which all plans have answered, and as many as it keeps are open.

    Args:
        open_plans: Plans whose graphs are loaded at the end.
        shared: Of those, plans that read weights from one copy.
        peak_mib: Most memory the process held, mapped weights included; None if unknown.
        anonymous_mib: What of the memory held at the end no file backs; None if unknown.
    """

    open_plans: int
    shared: int
    peak_mib: float | None
    anonymous_mib: float | None


class OpenedPlans:
    """Opens plans of a bundle one after another and has each answer once; ``Worker`` runs it.

    Args:
        case: Bundle, back-end, threads and arithmetic.
        names: Plans, the one first that the others are variants of.
        most: How many stay open where each packs its weights.

    Raises:
        LuvcError: See ``Session``.
    """

    def __init__(self, case: BenchCase, names: tuple[str, ...], most: int) -> None:
        options = replace(case, plan=names[0], open_plans=most)
        self._session = Session(case.bundle, options=options)
        self._names = names
        for name in names:
            self._session.plans[name].warm_up(min(1, case.images))

    def held(self) -> Held:
        """What the process holds now."""
        backends = [self._session.plans[name].backend for name in self._names]
        loaded = [backend for backend in backends if backend.placement()]
        shared = [one for one in loaded if not one.capabilities.packs_weights]
        peak, anonymous = (None if count is None else count / _MIB for count in (peak_bytes(), anonymous_bytes()))
        return Held(len(loaded), len(shared), peak, anonymous)


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
