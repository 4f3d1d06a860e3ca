"""Two ways to ask a checkpoint: word by word through transformers, and all questions of a picture at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoTokenizer, DynamicCache, Qwen2_5_VLForConditionalGeneration, Qwen2VLImageProcessorPil
from transformers.modeling_outputs import BaseModelOutputWithPooling

from luvc_export.demo.questions import GlyphCase

LONGEST = 8  # tokens an answer may have, <|im_end|> included; the longest right answer has five


@dataclass
class Asker:
    """A checkpoint folder, opened with transformers' own classes."""

    folder: Path

    def __post_init__(self) -> None:
        """Load model, tokenizer and image processor; the model computes in float32."""
        self.tokenizer = AutoTokenizer.from_pretrained(self.folder)
        self.processor = Qwen2VLImageProcessorPil.from_pretrained(self.folder)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model = Qwen2_5_VLForConditionalGeneration.from_pretrained(self.folder, dtype=torch.float32)
        self.model = model.eval().to(self.device)
        self.image_token, self.after_image = model.config.image_token_id, model.config.vision_end_token_id
        self.end = self.model.generation_config.eos_token_id

    @torch.no_grad()
    def see(self, images: Iterable[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Return visual embeddings [B, N, D] of uint8 pictures of one size, and the patch grid [1, 3] of one."""
        vision = self.processor([Image.fromarray(i) for i in images], return_tensors="pt").to(self.device)
        grid = vision["image_grid_thw"]
        features = self.model.model.visual(vision["pixel_values"], grid_thw=grid).pooler_output
        return features.view(len(grid), -1, features.shape[-1]), grid[:1]

    def ids(self, case: GlyphCase, tokens: int) -> list[int]:
        """Return the chat's token ids with `tokens` image tokens per picture."""
        content = [*({"type": "image"} for _ in case.images), {"type": "text", "text": case.prompt}]
        messages = [{"role": "user", "content": content}]
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return self.tokenizer(text.replace("<|image_pad|>", "<|image_pad|>" * tokens)).input_ids

    def answers(self, cases: list[GlyphCase], batch: int = 50) -> list[str]:
        """Return the greedy answers, each up to <|im_end|>.

        The picture and the chat header before a question run once for all questions that share them; questions of
        equal length run together, so nothing is padded.
        """
        answers = [""] * len(cases)
        by_pictures: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for i, case in enumerate(cases):
            by_pictures[tuple(id(image) for image in case.images)].append(i)
        for count in sorted({len(key) for key in by_pictures}):
            rows = [members for key, members in by_pictures.items() if len(key) == count]
            for first in range(0, len(rows), batch):
                some = rows[first : first + batch]
                batch_answers = self.converse([[cases[i] for i in row] for row in some])
                for i, answer in zip((i for row in some for i in row), batch_answers, strict=True):
                    answers[i] = answer
        return answers

    @torch.no_grad()
    def converse(self, rows: list[list[GlyphCase]]) -> list[str]:
        """Return the answers to rows of cases; all cases of a row show the same pictures, all rows equally many."""
        seen, grid = self.embed([row[0] for row in rows])
        pictures = [seen[id(image)] for row in rows for image in row[0].images]
        asked = [(r, self.ids(case, len(pictures[0]))) for r, row in enumerate(rows) for case in row]
        start = len(asked[0][1]) - asked[0][1][::-1].index(self.after_image)  # past the last <|vision_end|>
        ids = torch.tensor([asked[0][1][:start]] * len(rows), device=self.device)
        out = self.model(
            input_ids=ids,
            mm_encoder_outputs={"image": BaseModelOutputWithPooling(pooler_output=tuple(pictures))},
            image_grid_thw=grid.repeat(len(pictures), 1),
            mm_token_type_ids=(ids == self.image_token).int(),
            use_cache=True,
        )
        deltas, lengths = self.model.model.rope_deltas, defaultdict(list)
        for i, (_, words) in enumerate(asked):
            lengths[len(words)].append(i)
        answers = [""] * len(asked)
        for members in lengths.values():
            chosen = torch.tensor([asked[i][0] for i in members], device=self.device)
            cache = DynamicCache()
            for index, layer in enumerate(out.past_key_values.layers):
                cache.update(layer.keys[chosen], layer.values[chosen], index)
            self.model.model.rope_deltas = deltas[chosen]
            questions = torch.tensor([asked[i][1][start:] for i in members], device=self.device)
            for i, words in zip(members, self.generate(questions, cache), strict=True):
                answers[i] = self.tokenizer.decode(words)
        return answers

    def embed(self, cases: list[GlyphCase], batch: int = 32) -> tuple[dict[int, Tensor], Tensor]:
        """Return visual embeddings [N, D] by picture identity, and the patch grid [1, 3]."""
        images = list({id(image): image for case in cases for image in case.images}.values())
        seen, grid = {}, torch.zeros(1, 3)
        for first in range(0, len(images), batch):
            features, grid = self.see(images[first : first + batch])
            seen.update({id(image): f for image, f in zip(images[first : first + batch], features, strict=True)})
        return seen, grid

    @torch.no_grad()
    def generate(self, ids: Tensor, cache: DynamicCache) -> list[list[int]]:
        """Return greedy continuations of questions [B, T] after the prefixes in the cache, without <|im_end|>."""
        words: list[list[int]] = [[] for _ in ids]
        done = [False] * len(ids)
        for _ in range(LONGEST):
            out = self.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            ids = out.logits[:, -1].argmax(-1, keepdim=True)
            for i, token in enumerate(ids[:, 0].tolist()):
                done[i] = done[i] or token == self.end
                if not done[i]:
                    words[i].append(token)
            if all(done):
                return words
        # a line that never stopped gets a token no answer has, so that it cannot be right
        return [w if d else [*w, self.image_token] for w, d in zip(words, done, strict=True)]
