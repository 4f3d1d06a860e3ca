"""Tables of engines for people."""

from __future__ import annotations

import re
from typing import Any

from luvc_export.bundle.engines.checks import changed, newest_sign_off
from luvc_export.bundle.manifest import EngineEntry, EngineFile, Manifest, Verified
from luvc_export.cli.tables import console as consoles

_CACHE = re.compile(r"(past_key_values|present)\.(\d+)\.(?:key|value)")
_FACTOR = re.compile(r"(lora)\.(\d+)\.(.+)")


def facts(entry: EngineEntry) -> Any:
    """What one pair of engines is and needs."""
    table = consoles.table((), title=f"engines of plan {entry.plan} for {entry.target}")
    table.add_row("arithmetic, KV cache", f"{entry.precision}, {entry.kv}")
    table.add_row("loads in", f"{entry.backend} {entry.version}" + (" or later" if entry.version_compatible else ""))
    level = "" if entry.hardware_compatibility == "none" else f", {entry.hardware_compatibility}"
    table.add_row("runs on", f"compute capability {', '.join(entry.compute_capabilities)}{level}")
    sizes = f"{entry.text_capacity} text tokens, {_count(entry.images, 'image')}, batch {entry.batch}"
    table.add_row("capacity", sizes)
    for part, engine in (("vision", entry.vision), ("decoder", entry.decoder)):
        table.add_row(part, _size(engine))
    if entry.plugins:
        table.add_row("plugins", f"{entry.plugins.file}, sha256 {entry.plugins.record.sha256[:16]}")
    need = entry.footprint
    parts = f"weights {_mib(need.weights)}, KV {_mib(need.kv)}, activations {_mib(need.activations)}"
    parts += f", adapters {_mib(need.adapters)}" if need.adapters else ""
    table.add_row("memory, predicted", f"{_mib(need.running)} MiB ({parts})")
    if entry.refit:
        table.add_row("weights", "not in the plan: refit before use" if entry.stripped else "can be refitted")
    return table


def fits(entry: EngineEntry) -> str:
    """On which variants of the target the engines fit."""
    from luvc_export.engines import targets
    from luvc_export.engines.memory import smallest_fit

    record = targets.find(entry.target)
    least = smallest_fit(entry.footprint, record)
    sizes = ", ".join(map(str, record.device.memory_gib))
    return f"predicted to fit from {least} GiB on ({record.title}: {sizes} GiB)" if least else "predicted not to fit"


def bindings(part: str, engine: EngineFile) -> Any:
    """Inputs and outputs of one engine, with the shapes of every profile."""
    head = ("", "name", "dtype", "shape", *(f"profile {profile.name}" for profile in engine.profiles))
    table = consoles.table((), *head, title=f"{engine.file} ({part})")
    for kind, items in (("in", engine.inputs), ("out", engine.outputs)):
        rows: dict[tuple[str, ...], list[str]] = {}
        for item in items:
            ranges = [_range(profile.minimum, profile.maximum, item.name) for profile in engine.profiles]
            name, layer = _of_a_layer(item.name)
            rows.setdefault((name, item.dtype, _shape(item.shape), *ranges), []).append(layer)
        for (name, *cells), layers in rows.items():
            table.add_row(kind, name.format(_layers(layers)), *cells)
        table.add_section()
    return table


def _of_a_layer(name: str) -> tuple[str, str]:
    """The name with a place for its layer's number, and that; the name and nothing where it is of no layer."""
    if cache := _CACHE.fullmatch(name):
        return f"{cache[1]}.{{}}.key, value", cache[2]
    if factor := _FACTOR.fullmatch(name):
        return f"{factor[1]}.{{}}.{factor[3]}", factor[2]
    return name, ""


def _layers(names: list[str]) -> str:
    """Layer numbers as ``0-3``: layers of one shape follow each other."""
    first, last = names[0], names[-1]
    return first if first == last else f"{first}-{last}"


def _range(low: dict[str, tuple[int, ...]], high: dict[str, tuple[int, ...]], name: str) -> str:
    if name not in low:
        return ""
    pairs = zip(low[name], high[name], strict=True)
    return "x".join(str(a) if a == b else f"{a}-{b}" for a, b in pairs)


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join("?" if size < 0 else str(size) for size in shape)


def _size(engine: EngineFile) -> str:
    ratio = f"{engine.record.bytes / max(1, engine.weight_bytes):.2f}x its weights of {_mib(engine.weight_bytes)}"
    scratch = f", activations {_mib(engine.activation_bytes)}" if engine.activation_bytes is not None else ""
    return f"{_mib(engine.record.bytes)} MiB, {ratio}{scratch}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _mib(count: int) -> str:
    return f"{count / 2**20:,.1f}"


def trust(entry: EngineEntry, manifest: Manifest) -> str:
    """One line: an engine whose hash is right is the one that was built; a sign-off says that it answers right."""
    count = len(entry.code)
    signed = newest_sign_off(entry, manifest)
    known = f"{count} files have the sha256 that luvc.json says"
    return f"{known}; " + (f"signed off {_where(signed)}" if signed else "nobody signed off that they answer right")


def validation(signed: Verified, manifest: Manifest) -> Any:
    """What a device found when every stored case passed on it (docs/pack.md)."""
    table = consoles.table((), title=f"verified: plan {signed.plan} for {signed.target}")
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
