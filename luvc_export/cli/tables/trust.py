"""Tables of what is known of engines and of who signed them off."""

from __future__ import annotations

from typing import Any

from luvc_export.bundle.engine_checks import changed, standing
from luvc_export.bundle.manifest import EngineEntry, Manifest, Verified


def trust(entry: EngineEntry, manifest: Manifest) -> str:
    """One line: an engine whose hash is right is the one that was built; a sign-off says that it answers right."""
    count = len(entry.code)
    signed = standing(entry, manifest)
    known = f"{count} files have the sha256 that luvc.json says"
    return f"{known}; " + (f"signed off {_where(signed)}" if signed else "nobody signed off that they answer right")


def sign_off(signed: Verified, manifest: Manifest) -> Any:
    """What a device found when every stored case passed on it (docs/pack.md)."""
    from rich.table import Table

    table = Table(title=f"verified: plan {signed.plan} for {signed.target}", show_header=False)
    void = changed(signed, manifest)
    table.add_row("stands", f"no: {', '.join(void)} changed since" if void else "yes: these files answered")
    table.add_row("answered", f"{signed.backend} {signed.version}, {signed.cases} cases, all passed")
    table.add_row("where and when", _where(signed))
    table.add_row("power mode", signed.power_mode or "not known")
    for name, value in signed.figures.items():
        table.add_row(name.replace("_", " "), f"{value:.4g}")
    for warning in signed.warnings:
        table.add_row("warning", warning)
    return table


def _where(signed: Verified) -> str:
    system = f", Jetson Linux {signed.system}" if signed.system else ""
    return f"{signed.device or 'on a machine without a name'}{system}, {signed.date}"
