"""The stages of the curriculum. Each turns a step number into a loss and some figures to report."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from luvc_export.demo.questions import GlyphQuestion
from luvc_export.demo.scene import Scene, generator, lay_out, render, token_owner

from .curriculum import Curriculum
from .decoder import decode
from .guide import WATCHED, guide
from .model import LABELS, encode, labels
from .pack import Packer, shared_prefix
from .see import fresh_codes, noisy_symbols, see_loss

TRAIL_WEIGHT, GUIDE_WEIGHT, SEE_WEIGHT = 0.5, 0.6, 0.3
HEADS = ("head", "key", "members")  # linear readers of hidden states, used in training alone


class See:
    """Pictures through the encoder; loss on what each visual token shows."""

    def __init__(self, model: nn.Module, tokenizer: Tokenizer, args: argparse.Namespace) -> None:
        self.model, self.args = model, args
        self.device = next(model.parameters()).device
        self.codes = fresh_codes(self.device)

    def parameters(self) -> list[tuple[str, Tensor]]:
        """Return the encoder's parameters by name."""
        return list(self.model.model.visual.named_parameters())

    def numbers(self, step: int) -> range:
        """Return the numbers of the step's pictures."""
        return range(step * self.args.batch, (step + 1) * self.args.batch)

    def pictures(self, step: int) -> tuple[np.ndarray, list[Scene]]:
        """Return the step's pictures, uint8 [B, 252, 336, 3], and what they show."""
        drawn = [render(generator("train", self.args.seed, n), "train") for n in self.numbers(step)]
        return np.stack([image for image, _ in drawn]), [scene for _, scene in drawn]

    def step(self, step: int) -> tuple[Tensor, dict[str, float]]:
        """Return the loss of a step and the accuracy of each label."""
        images, scenes = self.pictures(step)
        return see_loss(encode(self.model, images), np.stack([labels(s) for s in scenes]), self.codes)

    def state_dict(self) -> dict:
        """Return what a resumed run or a later stage needs."""
        return {"model": self.model.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Restore `state_dict()`."""
        self.model.load_state_dict(state["model"])


class Hop(See):
    """Questions about ideal visual embeddings with noise on them: the decoder learns to hop before anyone can read."""

    def __init__(self, model: nn.Module, tokenizer: Tokenizer, args: argparse.Namespace) -> None:
        super().__init__(model, tokenizer, args)
        self.packer, self.curriculum = Packer(tokenizer), Curriculum()
        torch.manual_seed(args.seed)
        width, classes = model.config.text_config.hidden_size, sum(LABELS.values())
        self.head = nn.Linear(width, classes).to(self.device)  # what a key word leads to, read off its final state
        self.key = nn.Linear(width, classes).to(self.device)  # what it is about to look for
        self.members = nn.Linear(width, LABELS["digit"]).to(self.device)  # the digits that a counted colour has

    def parameters(self) -> list[tuple[str, Tensor]]:
        """Return the decoder's parameters and those of the intermediate head by name."""
        return [*self.model.model.language_model.named_parameters(), *self.head_parameters()]

    def head_parameters(self) -> list[tuple[str, Tensor]]:
        """Return the parameters that only training needs."""
        return [p for name in HEADS for p in getattr(self, name).named_parameters(name)]

    def look(self, step: int) -> tuple[Tensor, list[Scene], Tensor | float, dict[str, float]]:
        """Return visual embeddings [B, 108, 192], their scenes, a loss to add, and figures."""
        scenes = []
        for n in self.numbers(step):
            marks = lay_out(generator("train", self.args.seed, n), "train")
            scenes.append(Scene(marks, token_owner(marks)))
        rng = torch.Generator(self.device).manual_seed(self.args.seed * 1_000_003 + step)
        shown = torch.from_numpy(np.stack([labels(s) for s in scenes])).to(self.device)
        return noisy_symbols(shown, self.codes, rng), scenes, 0.0, {}

    def forms(
        self, step: int, visual: Tensor, scenes: list[Scene]
    ) -> Iterator[tuple[int, Tensor, list[list[GlyphQuestion]]]]:
        """Yield (pictures per row, visual embeddings, questions): all pictures alone, then some of them in pairs."""
        rng = generator("train", self.args.seed, step, 3)
        single, double = self.curriculum.draw(rng, scenes, self.args.questions)
        yield 1, visual, single
        if double:
            yield 2, visual[: 2 * len(double)].unflatten(0, (-1, 2)).flatten(1, 2), double

    def step(self, step: int) -> tuple[Tensor, dict[str, float]]:
        """Return the loss of a step and the accuracy of each kind of question."""
        visual, scenes, loss, figures = self.look(step)
        text, right, guided = self.model.model.language_model, {}, {}
        shown = torch.from_numpy(np.stack([labels(s) for s in scenes])).to(self.device)
        for pictures, embeddings, rows in self.forms(step, visual, scenes):
            packed = self.packer.pack(rows)
            ids, targets = packed.ids.to(self.device), packed.targets.to(self.device)
            prefix_ids = self.packer.prefix_ids(pictures)
            prefix = shared_prefix(text.embed_tokens, prefix_ids, self.model.config.image_token_id, embeddings)
            watched = dict.fromkeys(WATCHED) if pictures == 1 else None
            hidden = decode(text, prefix, text.embed_tokens(ids), watched=watched)
            wanted = targets >= 0
            logits = self.model.lm_head(hidden[wanted]).float()
            loss = loss + cross_entropy(logits, targets[wanted])
            trail = self.head(hidden.flatten(0, 2)[packed.anchors.to(self.device)]).float()
            for i, part in enumerate(trail.split(list(LABELS.values()), -1)):
                loss = loss + TRAIL_WEIGHT / len(LABELS) * cross_entropy(part, packed.trail[:, i].to(self.device))
            if watched:
                knows, looks = guide(packed, prefix, watched, shown, self.key, self.members)
                loss, guided = loss + GUIDE_WEIGHT * (knows + looks), {"knows": knows.item(), "looks": looks.item()}
            hit = torch.ones_like(wanted)
            hit[wanted] = logits.argmax(-1) == targets[wanted]
            asked = (question for row in rows for question in row)
            for question, correct in zip(asked, hit.all(-1).flatten().tolist(), strict=True):
                right.setdefault(question.kind, []).append(correct)
        accuracy = {kind: sum(v) / len(v) for kind, v in right.items()}
        self.curriculum.learn(accuracy)
        return loss, {**figures, **guided, **accuracy}

    def state_dict(self) -> dict:
        """Return what a resumed run or a later stage needs."""
        heads = {name: getattr(self, name).state_dict() for name in HEADS}
        return {**super().state_dict(), **heads, "ability": dict(self.curriculum.ability)}

    def load_state_dict(self, state: dict) -> None:
        """Restore `state_dict()`; a start from stage `see` has no head and no abilities."""
        super().load_state_dict(state)
        if HEADS[0] in state:
            for name in HEADS:
                getattr(self, name).load_state_dict(state[name])
            self.curriculum.ability = dict(state["ability"])


class Read(Hop):
    """Questions about real pictures through the encoder as stage `see` left it; only the decoder learns."""

    def look(self, step: int) -> tuple[Tensor, list[Scene], Tensor | float, dict[str, float]]:
        """Return visual embeddings of rendered pictures."""
        images, scenes = self.pictures(step)
        with torch.no_grad():
            return encode(self.model, images).float(), scenes, 0.0, {}


class Join(Hop):
    """Questions about real pictures; encoder and decoder learn together, the encoder keeps its label loss."""

    def parameters(self) -> list[tuple[str, Tensor]]:
        """Return all parameters by name."""
        return [*self.model.named_parameters(), *self.head_parameters()]

    def look(self, step: int) -> tuple[Tensor, list[Scene], Tensor | float, dict[str, float]]:
        """Return visual embeddings of rendered pictures and the encoder's own loss."""
        images, scenes = self.pictures(step)
        visual = encode(self.model, images).float()
        loss, figures = see_loss(visual, np.stack([labels(s) for s in scenes]), self.codes)
        return visual, scenes, SEE_WEIGHT * loss, figures


STAGES = {"see": See, "hop": Hop, "read": Read, "join": Join}
