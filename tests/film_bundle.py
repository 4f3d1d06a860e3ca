"""The demo bundle as one that takes films: its manifest alone differs, and each pair of frames is an image."""

from __future__ import annotations

import io
from dataclasses import replace

from PIL import Image

from luvc_export.bundle.folder import Bundle
from luvc_export.core.tiling import Video

_TEMPLATE = """{% for message in messages %}{{ '<|im_start|>' + message['role'] + '
' }}{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}\
{% if part['type'] == 'video' %}{{ '<|vision_start|><|video_pad|><|vision_end|>' }}\
{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}{{ '<|im_end|>
' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}"""


def taking_films(bundle: Bundle) -> Bundle:
    """``bundle``, which answers about films, though nobody taught its model to."""
    prompt = bundle.manifest.prompt
    video = Video("<|video_pad|>", bundle.manifest.image.frames, (prompt.image_token_id,), template=_TEMPLATE)
    return replace(bundle, manifest=replace(bundle.manifest, prompt=replace(prompt, video=video)))


def animation(frames: int, milliseconds: int) -> bytes:
    """A GIF of so many grey frames, each shown so long."""
    buffer = io.BytesIO()
    shown = [Image.new("L", (32, 24), index * 255 // frames) for index in range(frames)]
    shown[0].save(buffer, "GIF", save_all=True, append_images=shown[1:], duration=milliseconds)
    return buffer.getvalue()
