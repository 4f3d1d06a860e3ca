"""One vector a page: what is taught of it, dense where InfoNCE asks one number of a batch.

Every fact of a picture of digits (``red 7``, 90 in all) has a direction that never changes. A page's vector is to lie
along the sum of the directions of what the page shows, so that its products say of each fact whether it is there, and a
query's along the sum of what it names. Units are to say, a few layers in, which fact they show. Of some pages a part
of the digits is hidden behind other units of the same page.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, normalize

from glyph_search.corpus import SIZES, Sheet, asked, relevant
from glyph_search.model import UNIT, OneVector
from luvc_export.demo.scene import COLOURS

FACTS = tuple(f"{colour} {digit}" for colour in COLOURS for digit in range(10))
WHOLE = 0.4  # share of pages that show all of their digits
BEFORE = 3  # tokens before a query: `<|im_start|>user\n`; a fact has two
BARE = 0.2  # weight of a unit that shows nothing, of which there are most


def directions(width: int) -> Tensor:
    """A direction [facts, width] of each fact, at right angles to all others."""
    random = torch.Generator().manual_seed(5)
    return torch.linalg.qr(torch.randn(width, width, generator=random))[0][: len(FACTS)]


def fewer(rng: np.random.Generator, rows: Tensor, sheet: Sheet) -> Sheet:
    """What a page shows of whose units ``rows`` [N, D] some are replaced, in place, by others that show nothing."""
    if rng.random() < WHOLE:
        return sheet
    order = rng.permutation(len(sheet.facts))
    hidden, stay = np.split(order, [int(rng.integers(0, len(order)))])
    covered = {unit for units in sheet.units for unit in units}
    gone = [unit for at in hidden for unit in sheet.units[at]]
    rows[gone] = rows[rng.choice([unit for unit in range(len(rows)) if unit not in covered], len(gone))]
    return Sheet(tuple(sheet.facts[at] for at in stay), tuple(sheet.units[at] for at in stay))


def losses(
    model: OneVector,
    rng: np.random.Generator,
    rows: Tensor,
    sheets: list[Sheet],
    counts: list[int],
    ends: bool,
    weight: float,
) -> tuple[Tensor, dict[str, float]]:
    """The loss of a step, and its figures.

    Args:
        model: What learns.
        rng: Decides what is hidden and asked.
        rows: Visual embeddings of pages [B, N, D], changed in place.
        sheets: What the pages show.
        counts: Facts that queries about a page have.
        ends: Tokens that end a fact in a query are to say it too.
        weight: Of queries' loss.
    """
    codes, at = directions(rows.shape[2]), {fact: number for number, fact in enumerate(FACTS)}
    shown = [fewer(rng, some, one) for some, one in zip(rows, sheets, strict=True)]
    there, units = torch.zeros(len(shown), len(FACTS)), torch.full(rows.shape[:2], len(FACTS))
    for page, one in enumerate(shown):
        for fact, where in zip(one.facts, one.units, strict=True):
            there[page, at[fact]] = 1
            units[page, list(where)] = at[fact]
    wanted = [asked(rng, one.facts, count, page) for page, one in enumerate(shown) for count in counts]
    sums = torch.stack([codes[[at[fact] for fact in query.facts]].sum(0) for query in wanted])
    with torch.autocast("cpu", torch.bfloat16):
        pages, read = model.page(rows, tuple(side // UNIT for side in SIZES["textured"]))
        queries, words = model.query([query.text for query in wanted])
    products = model.scale.exp() * (pages @ codes.T) * there.sum(1, keepdim=True).sqrt() + model.bias
    facts = binary_cross_entropy_with_logits(products, there) * 9
    along = 1 - (queries * normalize(sums, dim=-1)).sum(1).mean()
    weights = torch.tensor([1.0] * len(FACTS) + [BARE])
    seen = cross_entropy(read.flatten(0, 1), units.flatten(), weights)
    if ends:
        behind = [
            (page, BEFORE + 2 * place + 1) for page, query in enumerate(wanted) for place in range(len(query.facts))
        ]
        facts_of = torch.tensor([at[fact] for query in wanted for fact in query.facts])
        seen = seen + cross_entropy(words[tuple(torch.tensor(behind).T)], facts_of)
    scores, own = (queries @ pages.T).detach(), torch.tensor([query.page for query in wanted])
    others = scores.masked_fill(torch.from_numpy(relevant(wanted, shown)), -2).amax(1)
    first = (scores.gather(1, own[:, None])[:, 0] > others).float().mean().item()
    figures = {"facts": facts.item(), "along": along.item(), "seen": seen.item(), "first": first}
    return facts + weight * along + seen, figures
