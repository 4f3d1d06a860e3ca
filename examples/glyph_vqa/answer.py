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
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration, Qwen2VLImageProcessorPil
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .questions import Case

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
        self.image_token = self.model.config.image_token_id
        self.end = self.model.generation_config.eos_token_id

    @torch.no_grad()
    def see(self, images: Iterable[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Return visual embeddings [B, N, D] of uint8 pictures of one size, and the patch grid [1, 3] of one."""
        vision = self.processor([Image.fromarray(i) for i in images], return_tensors="pt").to(self.device)
        grid = vision["image_grid_thw"]
        features = self.model.model.visual(vision["pixel_values"], grid_thw=grid).pooler_output
        return features.view(len(grid), -1, features.shape[-1]), grid[:1]

    def ids(self, case: Case, tokens: int) -> list[int]:
        """Return the chat's token ids with `tokens` image tokens per picture."""
        content = [*({"type": "image"} for _ in case.images), {"type": "text", "text": case.prompt}]
        messages = [{"role": "user", "content": content}]
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return self.tokenizer(text.replace("<|image_pad|>", "<|image_pad|>" * tokens)).input_ids

    def answers(self, cases: list[Case], batch: int = 64) -> list[str]:
        """Return the greedy answers, each up to <|im_end|>. Every picture goes through the encoder once."""
        seen, grid = self.embed(cases)
        lines: dict[tuple[int, int], list[int]] = defaultdict(list)
        ids = [self.ids(case, next(iter(seen.values())).shape[0]) for case in cases]
        for i, case in enumerate(cases):
            lines[len(ids[i]), len(case.images)].append(i)  # equal lengths need no padding
        answers = [""] * len(cases)
        for members in lines.values():
            for first in range(0, len(members), batch):
                some = members[first : first + batch]
                visual = torch.cat([seen[id(image)] for i in some for image in cases[i].images])
                said = self.generate(torch.tensor([ids[i] for i in some]), visual, grid)
                for i, words in zip(some, said, strict=True):
                    answers[i] = self.tokenizer.decode(words)
        return answers

    def embed(self, cases: list[Case], batch: int = 32) -> tuple[dict[int, Tensor], Tensor]:
        """Return visual embeddings [N, D] by picture identity, and the patch grid [1, 3]."""
        images = list({id(image): image for case in cases for image in case.images}.values())
        seen, grid = {}, torch.zeros(1, 3)
        for first in range(0, len(images), batch):
            features, grid = self.see(images[first : first + batch])
            seen.update({id(image): f for image, f in zip(images[first : first + batch], features, strict=True)})
        return seen, grid

    @torch.no_grad()
    def generate(self, ids: Tensor, visual: Tensor, grid: Tensor) -> list[list[int]]:
        """Return greedy continuations of prompts [B, T] whose pictures have the embeddings visual [B * n * N, D]."""
        ids, cache = ids.to(self.device), None
        is_image = ids == self.image_token
        pictures = len(visual) // (int(grid.prod()) // 4)
        image = BaseModelOutputWithPooling(pooler_output=(visual,))
        given = {"mm_encoder_outputs": {"image": image}, "image_grid_thw": grid.repeat(pictures, 1),
                 "mm_token_type_ids": is_image.int()}  # fmt: skip
        words: list[list[int]] = [[] for _ in ids]
        done = [False] * len(ids)
        for _ in range(LONGEST):
            out = self.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1, **given)
            cache, given, ids = out.past_key_values, {}, out.logits[:, -1].argmax(-1, keepdim=True)
            for i, token in enumerate(ids[:, 0].tolist()):
                done[i] = done[i] or token == self.end
                if not done[i]:
                    words[i].append(token)
            if all(done):
                return words
        # a line that never stopped gets a token no answer has, so that it cannot be right
        return [w if d else [*w, self.image_token] for w, d in zip(words, done, strict=True)]
