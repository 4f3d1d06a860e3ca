"""The tables of families in docs/families.md and README.md, written between their marks from the families themselves.

``python docs/family_tables.py`` rewrites both; a test compares them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from luvc_export.core.files import pages
from luvc_export.core.planning import LlmRequest, PlanRequest, solve
from luvc_export.errors import MachineError, UsageError
from luvc_export.export import families
from luvc_export.export.families._refused import REFUSED
from luvc_export.export.families.base import Family
from luvc_export.export.towers.learned_position_vit import LearnedPositionViT
from luvc_export.export.towers.rotary_position_vit import RotaryPositionViT

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests/export/families"))
import family_checkpoints

#: Columns of the table of verbs.
CELLS = (
    "export",
    "run",
    "parity hf",
    "parity torch",
    "calibrate",
    "plan --data",
    "tiles",
    "video",
    "joint",
    "build rtx",
)
DOCS = Path(__file__).resolve().parent
#: What ``benchmarks/measure/matrix`` wrote: of verbs, of plans, of pictures and turns.
MEASURED, PLANS, SHOWN = (
    DOCS / "results" / f"{name}.json" for name in ("families", "feature-matrix", "picture-matrix")
)

#: Places of visual tokens by ``position_kind``.
PLACES = {"mrope": "(t, h, w)", "sequential": "one after another", "xdrope": "(place, column, row, picture)"}

#: Columns of the table of families.
HEAD = (
    "`model_type`",
    "transformers class",
    "unit",
    "picture size",
    "encoder",
    "place in the LLM",
    "text model",
    "not there",
)


def page(text: str) -> str:
    """docs/families.md with its tables made anew."""
    rows = pages.table(HEAD, ()) + "".join(line(name) for name in families.built_in())
    chosen, shown = (json.loads(path.read_text(encoding="utf-8")) for path in (PLANS, SHOWN))
    refused = pages.table(("`model_type`", "why not"), ((f"`{name}`", why) for name, why in sorted(REFUSED.items())))
    tables = {"families": rows, "verbs": verbs(), "pictures": pictures(shown), "plans": plans(chosen)}
    tables |= {"refused": refused, "documents": documents()}
    for name, table in tables.items():
        text = pages.within(text, name, table)
    return text


def documents() -> str:
    """What models that read pages are asked, by their cards."""
    known = ((name, family_checkpoints.find(name).asked) for name in family_checkpoints.names())
    return pages.table(("family", "asked for", "`--prompt`"), ((f"`{name}`", *asked) for name, asked in known if asked))


def line(name: str) -> str:
    """A family's row; where what its model is made of is not installed here, the one that stands in the page."""
    try:
        return f"| {' | '.join(row(families.find(name, 'docs')))} |\n"
    except MachineError:
        written = (DOCS / "families.md").read_text(encoding="utf-8").splitlines()
        standing = [each for each in written if each.startswith(f"| `{name}` | `")]
        if not standing:
            raise
        return standing[0] + "\n"


def pictures(records: list[dict[str, Any]]) -> str:
    """What ``picture_matrix.py`` found."""
    cells = [cell for cell in records[0] if cell not in ("family", "opened otherwise")]
    rows = ([f"`{record['family']}`", *(record.get(cell, "") for cell in cells)] for record in records)
    return pages.table(("family", *cells), rows)


def plans(data: dict[str, dict[str, dict[str, Any]]]) -> str:
    """What ``feature_matrix.py`` found, and why it was refused what it was."""
    choices = dict.fromkeys(choice for cells in data.values() for choice in cells)
    reasons: dict[str, int] = {}

    def cell(record: dict[str, Any] | None) -> str:
        if record is None:
            return "not run"
        parts = [f"{record['equal']} equal, {record['worst']:.0e}"] if record.get("equal") else []
        parts += refused(record.get("refused", {}).values(), reasons)
        return "; ".join(parts + ["**differs**"] * ("differs" in record))

    rows = ([choice, *(cell(cells.get(choice)) for cells in data.values())] for choice in choices)
    table = pages.table(("choice", *(f"`{name}`" for name in data)), rows)
    return table + listed(reasons)


def refused(why: Iterable[str], reasons: dict[str, int]) -> list[str]:
    """A cell's word for ``why``, whose numbers ``reasons`` has; nothing where there is no reason."""
    numbers = sorted({reasons.setdefault(" ".join(reason.split()), len(reasons) + 1) for reason in why})
    return [f"refused ({', '.join(map(str, numbers))})"] if numbers else []


def listed(reasons: dict[str, int]) -> str:
    """The reasons below a table."""
    return "".join(f"\n{number}. {reason}" for reason, number in reasons.items()) + "\n" * bool(reasons)


def verbs() -> str:
    """What ``benchmarks/measure/matrix/families.py`` found."""
    data = json.loads(MEASURED.read_text(encoding="utf-8"))
    rows, reasons = [], dict[str, int]()
    for name, cells in data.items():
        failed = [f" {key}: {value}" for key, value in cells.items() if key not in CELLS]
        why = {cell: value.partition("refused: ")[2] for cell, value in cells.items()}
        shown = {cell: "".join(refused([reason], reasons)) for cell, reason in why.items() if reason}
        rows.append([f"`{name}`{'; '.join(failed)}", *((cells | shown).get(cell, "") for cell in CELLS)])
    return pages.table(("family", *CELLS), rows) + listed(reasons)


def short_table() -> str:
    """The README's table: what a picture may be in each family."""
    rows = []
    for name in families.built_in():
        family = families.find(name, "docs")
        config = family.tiny_config()
        size = "the tower's" if family.image_size(config) else "any, several in a bundle"
        rows.append((f"`{name}`", size, "yes" if cuts(family) else "", "yes" if family.video(config) else ""))
    return pages.table(("family", "image sizes", "tiles", "video"), rows)


def cuts(family: Family) -> bool:
    """Whether the family cuts pictures into tiles."""
    try:
        return bool(family.cuts(family.tiny_config(), [(1, 2)]))
    except UsageError:
        return False


def row(family: Family) -> list[str]:
    """One row: what the family's own tiny configuration and modules say."""
    config = family.tiny_config()
    with torch.device("meta"):
        model: Any = family.build(config)
    llm, encoder = family.decoder_shape(config), family.encoder_shape(config)
    size, unit = family.image_size(config), family.unit_pixels(config)
    grid = (size[0] // unit, size[1] // unit) if size else (4, 4)
    plan = solve(PlanRequest(LlmRequest("none")), grid, llm, encoder)
    decoder = family.decoder(model, plan)
    pixels = torch.nn.Identity()
    vision = family.vision(model, plan, pixels)  # type: ignore[arg-type]
    traits = ["windows and full attention" if encoder.window else "full attention"]
    traits = traits if encoder.blocks else ["convolutions: no merge and no prune inside"]
    traits += ["rotary positions"] * isinstance(vision, RotaryPositionViT)
    if isinstance(vision, LearnedPositionViT):
        traits += ["rotary positions"] * hasattr(vision, "rope")
        traits += ["learned positions"] + ["class token set aside"] * (vision.class_token() is not None)
    elif vars(type(vision)).get("learned_positions"):
        traits.append("learned positions, interpolated")
    if decoder.planes:
        traits.append("DeepStack planes")
    place = [PLACES[family.position_kind]]
    if family.prefix(config):
        place.append("the whole prompt seen both ways")
    elif decoder.shared_order:
        place.append("seen both ways")
    elif any(decoder.kind(layer).both_ways for layer in decoder.layers):
        place.append("seen both ways in sliding layers")
    text = config.get_text_config().model_type
    return [
        ", ".join([f"`{family.model_type}`", *family.also]),
        f"`{type(model).__name__}`",
        "one patch" if encoder.unit == 1 else "square group of patches",
        "the tower's own" if size else "any multiple of the unit",
        ", ".join(traits),
        ", ".join(place),
        ", ".join(f"`{name}`" for name in (family.text_models if text in family.text_models else (text,))),
        "; ".join(family.limits) or "nothing known",
    ]


if __name__ == "__main__":
    for file, written in (
        (DOCS / "families.md", page),
        (DOCS.parent / "README.md", lambda text: pages.within(text, "families", short_table())),
    ):
        file.write_text(written(file.read_text(encoding="utf-8")), encoding="utf-8")
