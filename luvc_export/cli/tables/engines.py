"""Tables of engines for people."""

from __future__ import annotations

import re
from typing import Any

from luvc_export.bundle.engines.checks import changed, newest_sign_off
from luvc_export.bundle.manifest import EngineEntry, EngineFile, Manifest, Verified
from luvc_export.cli.tables import console as consoles

_CACHE = re.compile(r"(past_key_values|present)\.(\d+)\.(?:key|value)")
_FACTOR = re.compile(r"(lora)\.(\d+)\.(.+)")


def facts(entry: EngineEntry, trusted: str | None = None) -> Any:
    """What one pair of engines is and needs; ``trusted`` is what ``trust`` says of them."""
    rows = [("arithmetic, KV cache", f"{entry.precision}, {entry.kv}")]
    rows.append(("loads in", f"{entry.backend} {entry.version}" + (" or later" if entry.version_compatible else "")))
    level = "" if entry.hardware_compatibility == "none" else f", {entry.hardware_compatibility}"
    rows.append(("runs on", f"compute capability {', '.join(entry.compute_capabilities)}{level}"))
    images = f"{entry.images} image{'s' * (entry.images != 1)}"
    rows.append(("capacity", f"{entry.text_capacity} text tokens, {images}, batch {entry.batch}"))
    rows += [("vision", _size(entry.vision)), ("decoder", _size(entry.decoder))]
    if entry.plugins:
        rows.append(("plugins", f"{entry.plugins.file}, sha256 {entry.plugins.record.sha256[:16]}"))
    need = entry.footprint
    parts = f"weights {_mib(need.weights)}, KV {_mib(need.kv)}, activations {_mib(need.activations)}"
    parts += f", adapters {_mib(need.adapters)}" if need.adapters else ""
    rows.append(("memory, predicted", f"{_mib(need.running)} MiB ({parts})"))
    if entry.refit:
        rows.append(("weights", "not in the plan: refit before use" if entry.stripped else "can be refitted"))
    if trusted is not None:
        rows.append(("trust", trusted))
    return consoles.table(rows, title=f"engines of plan {entry.plan} for {entry.target}")


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
    void = changed(signed, manifest)
    rows = [
        ("stands", f"no: {', '.join(void)} changed since" if void else "yes: these files answered"),
        ("answered", f"{signed.backend} {signed.version}, {signed.cases} cases, all passed"),
        ("where and when", _where(signed)),
        ("power mode", signed.power_mode or "not known"),
        *((name.replace("_", " "), f"{value:.4g}") for name, value in signed.figures.items()),
        *(("warning", warning) for warning in signed.warnings),
    ]
    return consoles.table(rows, title=f"verified: plan {signed.plan} for {signed.target}")


def _where(signed: Verified) -> str:
    system = f", Jetson Linux {signed.system}" if signed.system else ""
    return f"{signed.device or 'on a machine without a name'}{system}, {signed.date}"
