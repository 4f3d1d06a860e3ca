"""Graphs finished for a target that runs graphs, into a bundle that has none or older ones."""

from __future__ import annotations

import os

from luvc_export.bundle import folder as bundles
from luvc_export.bundle import graph_trust
from luvc_export.bundle.replacing import check_own, take_along
from luvc_export.core.files.folders import writing_to
from luvc_export.core.progress import Progress
from luvc_export.errors import MachineError, UsageError


def finish_graphs(
    bundle: str | os.PathLike[str] | bundles.Bundle,
    target: str,
    plan: str | None = None,
    progress: Progress | None = None,
) -> bundles.Bundle:
    """Write the decoders of a bundle's plans as ``target`` runs them best beside its own, all or nothing.

    ``export`` does so; this is for bundles of before. The weights stay where they are, and no weight is read.

    Args:
        bundle: Folder, or a checked bundle.
        target: Name of a target that runs graphs, such as ``cpu`` or ``intel-cpu``.
        plan: One of the bundle's plans; None for every one.
        progress: Told (stage, fraction done).

    Raises:
        UsageError: An unknown target or plan, one that graphs are not finished for, or a bundle that cannot be written.
        BundleError: The bundle is missing, damaged, or holds what is not its own.
        MachineError: The packages that surgery needs are missing.
        CheckFailed: A pass broke its promise.
    """
    from luvc_export.engines import targets

    record = targets.find(target)
    if not record.graphs:
        raise UsageError(
            "no graphs are finished for this target",
            where=f"--target {target}",
            expected=", ".join(name for name in targets.names() if targets.find(name).graphs),
        )
    try:
        from luvc_export.export.surgeon.finish import finish
    except ModuleNotFoundError as error:
        raise MachineError(
            "turning a bundle's graphs into a target's needs more packages than running",
            got=f"no module {error.name}",
            fix="pip install 'luvc-export[export]'",
        ) from error
    opened = bundle if isinstance(bundle, bundles.Bundle) else bundles.load(bundle)
    manifest, wanted = opened.manifest, [opened.name_of(plan)] if plan else list(opened.manifest.plans)
    check_own(opened.folder, manifest)
    bare = manifest.without_sets(wanted, {target})
    gone = manifest.files.keys() - bare.files.keys()
    with writing_to(opened.folder), bundles.writing(opened.folder, overwrite=True) as folder:
        take_along(opened.folder, manifest, folder, but=frozenset({*gone, bundles.MANIFEST}), link=True)
        changed = finish(
            bundles.Bundle(folder, bare), wanted, {target: record.graphs}, progress or (lambda stage, done: None)
        )
        bundles.write_manifest(folder, changed)
    written = bundles.Bundle(opened.folder, changed)
    graph_trust.inherit(opened, written)
    return written
