"""What the answers need: accuracy when visual tokens vanish before a layer, or only a random part of them enters.

Scored on the packed decoder, all questions of a picture at once. An answer counts as right when every token of it,
<|im_end|> included, has the highest logit given the right tokens before it; greedy decoding gives the same verdict.
"""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor

from luvc_export.demo.questions import GlyphCase, GlyphQuestion

from .answer import Asker
from .decoder import Prefix, decode
from .pack import Packer, shared_prefix


def rows_of(cases: list[GlyphCase]) -> list[list[int]]:
    """Return indices of cases grouped by the pictures they show, two-picture cases apart."""
    rows: dict[tuple[int, int], list[int]] = defaultdict(list)
    for i, case in enumerate(cases):
        rows[case.picture, len(case.images)].append(i)
    return list(rows.values())


def thin(prefix: Prefix, keep: float, seed: int) -> Prefix:
    """Return the prefix with a random `keep` of its visual tokens, order and positions unchanged."""
    visual, random = prefix.visual.nonzero()[:, 0], torch.Generator().manual_seed(seed)
    chosen = visual[torch.randperm(len(visual), generator=random)[: round(keep * len(visual))]]
    stays = ~prefix.visual
    stays[chosen] = True
    return Prefix(prefix.embeddings[:, stays], prefix.positions[:, stays], prefix.visual[stays])


@torch.no_grad()
def scores(
    asker: Asker,
    cases: list[GlyphCase],
    seen: dict[int, Tensor],
    drop_before: int | None = None,
    keep: float = 1.0,
    seed: int = 0,
) -> list[bool]:
    """Return whether each case is answered right; `seen` maps picture identity to embeddings (`Asker.embed`).

    `drop_before` removes all visual tokens before that layer; `keep` < 1 lets a random part into the first layer.
    """
    packer, text = Packer(asker.tokenizer.backend_tokenizer), asker.model.model.language_model
    right = [False] * len(cases)
    for row in rows_of(cases):
        images = cases[row[0]].images
        visual = torch.cat([seen[id(image)] for image in images])[None]
        packed = packer.pack([[GlyphQuestion(cases[i].kind, cases[i].prompt, cases[i].answer) for i in row]])
        prefix = shared_prefix(text.embed_tokens, packer.prefix_ids(len(images)), asker.image_token, visual)
        start = int(prefix.positions.max()) + 1
        if keep < 1:
            prefix = thin(prefix, keep, seed * 1_000_003 + cases[row[0]].picture)
        ids, targets = packed.ids.to(asker.device), packed.targets.to(asker.device)
        hidden = decode(text, prefix, text.embed_tokens(ids), drop_before, start)
        verdict = (asker.model.lm_head(hidden).argmax(-1) == targets) | (targets < 0)
        for i, correct in zip(row, verdict.all(-1)[0].tolist(), strict=True):
            right[i] = correct
    return right
