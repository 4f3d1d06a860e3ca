"""Stage `see`: the encoder learns what each unit of pictures and pages shows."""

from __future__ import annotations

import argparse

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from glyph_deep.data import page, pictures
from glyph_deep.data.labels import FIELDS, NAMES_OF_FIELDS, ROLES, Seen, codebook, of_page, of_scene, symbols
from glyph_deep.data.splits import generator
from luvc_export.demo.scene import Scene

from .encoder import encode, windows

SHARPNESS = 8.0  # logit of a label = SHARPNESS * <output, code>; a perfect output scores 8 against about 0
MIDDLE = 6  # the block after which linear readers, used in training alone, tell what a unit itself shows
BOUND = 8  # the block after which one tells all of its labels
READER_WEIGHT = 0.3
BINDING = 7  # the full-attention block after it, in three of whose heads units look at what names them
BINDING_WEIGHT = 0.3
READERS = ("reader", "patch", "bound")
#: The role a unit must have for the middle reader to be asked for a field: the rest of its line comes later.
OWN = {"key": "key", "ref": "ref", "line": "number", "tens": "figure", "ones": "figure"}


def draw(ground: str, seed: int, number: int, split: str = "train") -> tuple[np.ndarray, Scene | page.Page, Seen]:
    """Return a picture (plain, textured) or a page (short, page, wide), what it holds and what its units show."""
    if ground in page.FORMATS:
        rng = generator(split, "pages", seed, list(page.FORMATS).index(ground), number)
        image, layout, shown = page.render(rng, split, ground)
        return image, layout, of_page(layout, shown)
    image, scene = pictures.render(generator(split, ground, seed, number), split, ground)
    return image, scene, of_scene(scene)


def see_loss(visual: Tensor, labels: Tensor, codes: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
    """Return the loss of visual embeddings [B, units, 192] against labels [B, units, fields], and accuracy by field.

    Cross-entropy of every label on the units that have it, plus the squared distance to the sum of codes (to the code
    `none` elsewhere), so that the encoder ends on the very vectors the LLM is taught with.
    """
    visual = visual.float()
    on = (labels >= 0).any(-1)
    missed = (visual - symbols(labels, codes)).square().sum(-1)
    loss, right = 0.5 * missed.mean() + missed[on].mean(), {}
    for i, name in enumerate(NAMES_OF_FIELDS):
        has = labels[..., i] >= 0
        if has.any():
            logits = SHARPNESS * visual[has] @ codes[name].T
            loss = loss + cross_entropy(logits, labels[has][:, i])
            right[name] = (logits.argmax(-1) == labels[has][:, i]).float().mean().item()
    return loss, right


def read_loss(logits: Tensor, labels: Tensor, own: bool) -> Tensor:
    """Return the loss of a reader's logits [B, units, classes]: on all labels or what units show alone (`own`)."""
    role, parts = labels[..., NAMES_OF_FIELDS.index("role")], logits.float().split(list(FIELDS.values()), -1)
    loss = logits.new_zeros((), dtype=torch.float32)
    for i, name in enumerate(NAMES_OF_FIELDS):
        has = labels[..., i] >= 0
        if own and name in OWN:
            has = has & (role == ROLES.index(OWN[name]))
        if own and name == "head":
            has = has & (role < 0)
        if not (own and name in ("row", "column", "role")) and has.any():
            loss = loss + cross_entropy(parts[i][has], labels[has][:, i])
    return loss


def targets(labels: Tensor, grid: tuple[int, int]) -> list[tuple[Tensor, Tensor]]:
    """Return (from, to) for three heads: bool [B, units] of those that look, [B, units, units] what they look at.

    Figures and references look at the key of their line, figures at the reference of their line and at the head of
    their column.
    """
    role, head = (labels[..., NAMES_OF_FIELDS.index(name)] for name in ("role", "head"))
    row = torch.arange(grid[0]).repeat_interleave(grid[1])
    same = row[:, None] == row
    figure, key, ref = (role == ROLES.index(name) for name in ("figure", "key", "ref"))
    names = (role < 0) & (head >= 0)
    pairs = [
        (figure | ref, same & key[:, None]),
        (figure, same & ref[:, None]),
        (figure, (head[..., None] == head[:, None]) & names[:, None]),
    ]
    return [(those & to.any(-1), to) for those, to in pairs]


def binding_loss(weights: Tensor, labels: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return -log of the attention [B, heads, 4 * units, 4 * units] that goes where `targets` say, head by head."""
    back, missed = windows(*grid)[0].argsort(), []
    for index, (those, to) in enumerate(targets(labels, grid)):
        picture, unit = those.nonzero().T
        some = weights[:, index].unflatten(1, (-1, 4))[picture, back[unit]]  # [n, 4, 4 * units]
        mass = (some.unflatten(-1, (-1, 4)).float().sum(-1)[..., back] * to[picture, unit][:, None]).sum(-1)
        missed.append(-mass.clamp_min(1e-6).log().flatten())
    losses = torch.cat(missed)
    return losses.mean() if len(losses) else weights.new_zeros((), dtype=torch.float32)


class See:
    """Pictures and pages through the encoder; loss on what each unit shows."""

    def __init__(self, model: nn.Module, args: argparse.Namespace) -> None:
        self.model, self.args, self.codes = model, args, codebook()
        torch.manual_seed(args.seed)
        width, classes = model.config.vision_config.hidden_size, sum(FIELDS.values())
        self.reader = nn.Linear(4 * width, classes)  # of units after MIDDLE
        self.patch = nn.Linear(width, classes)  # of the mean of a unit's patches there, which is what attention moves
        self.bound = nn.Linear(4 * width, classes)  # of units after BOUND

    def parameters(self) -> list[tuple[str, Tensor]]:
        """Return the encoder's parameters and the readers' by name."""
        readers = [p for name in READERS for p in getattr(self, name).named_parameters(name)]
        return [*self.model.model.visual.named_parameters(), *readers]

    def step(self, step: int) -> tuple[Tensor, dict[str, float]]:
        """Return the loss of a step and the accuracy of each field; grounds of one size run together."""
        loss, figures, pictures = torch.zeros(()), {}, sum(self.args.mix.values())
        for grounds in (("plain", "textured"), *((name,) for name in page.FORMATS)):
            drawings = [
                draw(ground, self.args.seed, step * self.args.mix[ground] + i)
                for ground in grounds
                for i in range(self.args.mix.get(ground, 0))
            ]
            if drawings:
                images, labels = (
                    np.stack([m[0] for m in drawings]),
                    torch.from_numpy(np.stack([m[2].labels for m in drawings])),
                )
                watched = dict.fromkeys((MIDDLE, BINDING, BOUND))
                visual = encode(self.model.model.visual, images, watched=watched)
                part, right = see_loss(visual, labels, self.codes)
                kept = watched[MIDDLE][0]
                part = part + READER_WEIGHT * read_loss(self.reader(kept), labels, own=True)
                patches = self.patch(kept.unflatten(-1, (4, -1)).mean(-2))
                part = part + READER_WEIGHT * read_loss(patches, labels, own=True)
                part = part + READER_WEIGHT * read_loss(self.bound(watched[BOUND][0]), labels, own=False)
                if grounds[0] in page.FORMATS:
                    bound = binding_loss(watched[BINDING][1], labels, page.FORMATS[grounds[0]])
                    part, right["bound"] = part + BINDING_WEIGHT * bound, bound.item()
                loss = loss + part * (len(drawings) / pictures)
                figures |= {f"{grounds[-1]}_{k}": v for k, v in right.items()}
        return loss, figures

    def state_dict(self) -> dict:
        """Return what a resumed run or a later stage needs."""
        return {"model": self.model.state_dict(), **{name: getattr(self, name).state_dict() for name in READERS}}

    def load_state_dict(self, state: dict) -> None:
        """Restore `state_dict()`; a start from another stage has no readers."""
        self.model.load_state_dict(state["model"])
        for name in READERS:
            if name in state:
                getattr(self, name).load_state_dict(state[name])
