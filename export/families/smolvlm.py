"""SmolVLM and SmolVLM2: Idefics3 with another text model and mostly 4x4 patches to a unit."""

from __future__ import annotations

from typing import Any

from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration

from luvc_export.core.tiling import Video
from luvc_export.export.families.idefics3 import Idefics3

#: What ``SmolVLMProcessor`` renders chats with a video by, whatever template the checkpoint has.
VIDEO_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% elif line['type'] == 'video' %}{{ '<video>' }}"
    "{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


class SmolVLM(Idefics3):
    """SmolVLM and SmolVLM2."""

    model_type = "smolvlm"
    architecture = SmolVLMForConditionalGeneration

    def video(self, config: Any) -> Video | None:
        """Each frame whole, behind its time (``SmolVLMProcessor.replace_video_token``)."""
        fake = "<fake_token_around_image>"
        return Video(
            "<video>",
            1,
            (f"\nFrame from {{clock}}:{fake}<global-img>", self.image_token_id(config), fake),
            opening="You are provided the following series of {count} frames from a {duration} [H:MM:SS] video.\n",
            closing="\n\n",
            template=VIDEO_TEMPLATE,
        )

    def tiny_config(self) -> SmolVLMConfig:
        """As Idefics3's with 5x5 units on 25x25 patches, where fp32 puts some patches one bucket early."""
        sizes = self.tiny_sizes()
        vision = sizes["vision_config"] | {"image_size": 100, "patch_size": 4}
        return SmolVLMConfig(**sizes | {"scale_factor": 5, "vision_config": vision})


FAMILY = SmolVLM()
