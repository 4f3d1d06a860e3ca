"""A family inside a model for retrieval: its two halves as they are, behind a projection of every token."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch import nn

from luvc_export.core.files.template_source import json_object
from luvc_export.core.plan import Plan
from luvc_export.core.shapes import DecoderShape, EncoderShape
from luvc_export.core.tasks import Embedding
from luvc_export.core.tiling import Prefix
from luvc_export.errors import CheckpointError
from luvc_export.export.checkpoint import checkpoint_json
from luvc_export.export.families.base import Family, Normalise, ReferencePrompt
from luvc_export.export.llm.decoder import Decoder
from luvc_export.export.reading.tokenizer_files import CONFIG, tokenizer_files

#: Texts of a processor that are prompts.
_LONGEST = 4096


class RetrievalFamily(Family):
    """A ``ForRetrieval`` model: ``vlm`` without its head, then ``embedding_proj_layer`` of every row, of length 1.

    Attributes:
        inner: The family of ``vlm``, or the first of those it may have.
    """

    inner: Family
    task = "embed-many"

    def inside(self, config: Any) -> Family:
        """The family of a checkpoint's ``vlm``."""
        return self.inner

    def embedding(self, config: Any, task: str) -> Embedding | None:
        """A vector of every row, projected."""
        if task != self.task:
            return None
        return Embedding("every", generation_prompt=False, width=int(config.embedding_dim))

    def side(self, config: Any) -> int:
        """See ``Family``, as all below."""
        return self.inside(config).side(config.vlm_config)

    def blocks(self, config: Any) -> int:
        """Of ``vlm``."""
        return self.inside(config).blocks(config.vlm_config)

    def encoder_shape(self, config: Any) -> EncoderShape:
        """Of ``vlm``."""
        return self.inside(config).encoder_shape(config.vlm_config)

    def unit_pixels(self, config: Any) -> int:
        """Of ``vlm``."""
        return self.inside(config).unit_pixels(config.vlm_config)

    def decoder_shape(self, config: Any) -> DecoderShape:
        """Of ``vlm``."""
        return self.inside(config).decoder_shape(config.vlm_config)

    def image_token_id(self, config: Any) -> int:
        """Of ``vlm``."""
        return self.inside(config).image_token_id(config.vlm_config)

    def image_size(self, config: Any) -> tuple[int, int] | None:
        """Of ``vlm``."""
        return self.inside(config).image_size(config.vlm_config)

    def visual_width(self, config: Any) -> int:
        """Of ``vlm``."""
        return self.inside(config).visual_width(config.vlm_config)

    def prefix(self, config: Any) -> Prefix | None:
        """Of ``vlm``."""
        return self.inside(config).prefix(config.vlm_config)

    def image_processor(self, folder: str | os.PathLike[str]) -> Any:
        """Of ``vlm``."""
        return self.inner.image_processor(folder)

    def language_model(self, model: Any) -> nn.Module:
        """Of ``vlm``."""
        inner: nn.Module = model.vlm.language_model
        return inner

    def plane_mergers(self, model: Any) -> list[Any]:
        """None."""
        return []

    def vision(self, model: Any, plan: Plan, normalise: Normalise) -> nn.Module:
        """Of ``vlm``."""
        return self.inside(model.config).vision(_as_inner(model), plan, normalise)

    def decoder(self, model: Any, plan: Plan) -> Decoder:
        """Of ``vlm``, with the projection as its head."""
        return self.inside(model.config).decoder(_as_inner(model), plan)

    def reference_inputs(self, config: Any, prompt: ReferencePrompt) -> dict[str, Any]:
        """Of ``vlm``."""
        return self.inside(config).reference_inputs(config.vlm_config, prompt)


def _as_inner(model: Any) -> Any:
    """The model by the names that its inner family reads."""
    return SimpleNamespace(model=model.vlm, lm_head=model.embedding_proj_layer, config=model.config.vlm_config)


def processor_texts(folder: Path, usual: Mapping[str, str]) -> dict[str, str]:
    """What a processor writes around inputs: of ``processor_config.json``, or where that has none, as transformers.

    Raises:
        CheckpointError: One is no text.
    """
    path = folder / "processor_config.json"
    stated = checkpoint_json(path) if path.is_file() else {}
    texts = {name: text if stated.get(name) is None else stated[name] for name, text in usual.items()}
    for name, text in texts.items():
        if not isinstance(text, str) or len(text) > _LONGEST:
            raise CheckpointError(
                "the processor does not say what it writes around an input",
                where=f"{path}: {name}",
                got=repr(text)[:80],
                expected=f"a text of at most {_LONGEST} letters",
            )
    return texts


def padding_token(folder: Path, usual: str) -> str:
    """The tokenizer's padding token, which queries are made longer by."""
    data = tokenizer_files(folder).files.get(CONFIG)
    fields = {} if data is None else json_object(data, CheckpointError, str(folder / CONFIG))
    stated = fields.get("pad_token")
    text = stated.get("content") if isinstance(stated, Mapping) else stated
    return text if isinstance(text, str) and len(text) <= _LONGEST else usual


def one_input(page: str, query: tuple[str, str]) -> str:
    """A chat template of one picture, written as ``page``, or of one text between the two of ``query``."""
    before, behind = map(_quoted, query)
    written = f"{{{{ {_quoted(page)} }}}}"
    asked = f"{{{{ {before} }}}}{{{{ part['text'] }}}}{{{{ {behind} }}}}"
    parts = f"{{% if part['type'] == 'image' %}}{written}{{% else %}}{asked}{{% endif %}}"
    return f"{{% for part in messages[-1]['content'] %}}{parts}{{% endfor %}}"


def _quoted(text: str) -> str:
    """A text as Jinja has it."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"'{escaped}'"
