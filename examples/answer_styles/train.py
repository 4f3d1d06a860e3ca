"""Train a LoRA adapter that says the bundled model's answers otherwise: `python -m answer_styles.train --style agreed`.

Pictures and questions are drawn from the seed and the step number, as in `glyph_vqa.train`; all questions of a picture
share one pass over it. The LLM's seven products learn, nothing else; peft's `save_pretrained` writes them.
"""

from __future__ import annotations

import argparse
import time
import warnings
from dataclasses import replace
from pathlib import Path

import torch
from glyph_vqa.decoder import decode
from glyph_vqa.model import encode
from glyph_vqa.pack import Packer, shared_prefix
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer
from torch.nn.functional import cross_entropy
from transformers import Qwen2_5_VLForConditionalGeneration

from luvc_export.demo import CHECKPOINT
from luvc_export.demo.questions import ONE_PICTURE
from luvc_export.demo.scene import generator, render

#: How a style says an answer, of words that the model has, which stands where the model has learned to say it.
STYLES = {"sentence": "{} it is", "agreed": "{} is right", "asked": "{} is what"}
#: The LLM's products: a name alone would change the encoder's too, which has no slots.
TARGETS = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"


def styled(style: str, answer: str) -> str:
    """An answer as a style says it."""
    return STYLES[style].format(answer)


def train(style: str, out: Path, steps: int, pictures: int, rank: int, rate: float = 5e-3) -> float:
    """Train one adapter and write it to ``out``; the share of answers whose every token was right in the last steps."""
    torch.manual_seed(0)
    tokenizer = Tokenizer.from_file(str(CHECKPOINT / "tokenizer.json"))
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(CHECKPOINT, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers for what it will rename
        adapted = get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=TARGETS))
    learned = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(learned, rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.1)
    packer, text, recent, begun = Packer(tokenizer), model.model.language_model, list[float](), time.time()
    for step in range(steps):
        drawn = [render(generator("train", 1, step * pictures + n), "train") for n in range(pictures)]
        with torch.no_grad():
            visual = torch.cat([encode(model, image[None]) for image, _ in drawn])
        rng = generator("train", 1, step, 3)
        rows = []
        for _, scene in drawn:
            asked = [one for draw in ONE_PICTURE.values() if (one := draw(rng, scene)) is not None]
            rows.append([replace(one, answer=styled(style, one.answer), trail=(), among=()) for one in asked])
        most = min(map(len, rows))
        packed = packer.pack([row[:most] for row in rows])
        prefix = shared_prefix(text.embed_tokens, packer.prefix_ids(1), model.config.image_token_id, visual)
        hidden = decode(text, prefix, text.embed_tokens(packed.ids))
        wanted = packed.targets >= 0
        logits = model.lm_head(hidden[wanted])
        loss = cross_entropy(logits, packed.targets[wanted])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        hit = torch.ones_like(wanted)
        hit[wanted] = logits.argmax(-1) == packed.targets[wanted]
        recent = [*recent[-19:], hit.all(-1).float().mean().item()]
        if step % 20 == 19 or step == steps - 1:
            right, spent = sum(recent) / len(recent), time.time() - begun
            print(f"{style} step {step + 1} loss {loss.item():.3f} right {right:.3f} {spent:.0f} s", flush=True)
    adapted.save_pretrained(out)
    return sum(recent) / len(recent)


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--style", choices=sorted(STYLES), required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of the adapter")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--pictures", type=int, default=4, help="pictures a step, a question of each kind about each")
    parser.add_argument("--rank", type=int, default=8)
    args = parser.parse_args()
    train(args.style, args.out, args.steps, args.pictures, args.rank)


if __name__ == "__main__":
    main()
