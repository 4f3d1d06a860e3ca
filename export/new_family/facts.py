"""What transformers' config and modules say of a model that has no family yet, and which family it is like."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

import torch
from torch import nn

from luvc_export.errors import MachineError, UsageError, did_you_mean
from luvc_export.export import families
from luvc_export.export.families.base import Family

#: How alike the blocks of two towers must be for one family to be made from the other.
ALIKE = 0.7
#: What ``RotaryPositionViT`` reads of a tower unless it is told otherwise: parameters of a block, fields of the config.
_ROTARY_BLOCK = frozenset(f"{name}.weight" for name in ("norm1", "attn.qkv", "attn.proj", "norm2"))
_ROTARY_FIELDS = frozenset({"depth", "num_heads", "patch_size", "spatial_merge_size", "temporal_patch_size"})
#: Fields of text configs that scale or cap something which ``Decoder`` neither scales nor caps.
_WEIGHTY = re.compile(r"softcap|multiplier|scalar|logits_scal|logit_scale|use_bidirectional|sliding_window")


@dataclass(frozen=True)
class Half:
    """A half of a model: its name in the model, its config, and its parameters' sizes by names without numbers."""

    name: str
    config: Any
    sizes: dict[str, tuple[int, ...]]

    @property
    def names(self) -> frozenset[str]:
        """Of its parameters."""
        return frozenset(self.sizes)

    @property
    def blocks(self) -> str:
        """Where its blocks lie."""
        return next((name.partition(".N.")[0] for name in sorted(self.names) if ".N." in name), "")

    @property
    def block(self) -> frozenset[str]:
        """Names inside a block."""
        return frozenset(name.partition(".N.")[2] for name in self.names if ".N." in name)

    @property
    def widths(self) -> tuple[int, int]:
        """Channels of a block and inside its MLP, by the weights of towers with the names of Qwen-VL; else 0."""
        width = self.sizes.get(f"{self.blocks}.N.norm1.weight", (0,))[0]
        ways = (
            size for name, size in self.sizes.items() if name.startswith(f"{self.blocks}.N.mlp.") and len(size) == 2
        )
        return width, next((inside for out, inside in ways if out == width != inside), 0)

    @property
    def beside(self) -> frozenset[str]:
        """Names beside the blocks."""
        return frozenset(name for name in self.names if ".N." not in name)


@dataclass(frozen=True)
class Facts:
    """What is known of a model.

    Attributes:
        model_type: Of its config.
        config: The config by its own defaults.
        architecture: Class of the model.
        tower: Its vision half.
        text: Its text half.
        joins: Names of parameters of neither half, sorted: projectors, newlines, heads.
        kin: The family whose tower has the same blocks; None where none has.
        likeness: How alike they are, of 1.
    """

    model_type: str
    config: Any
    architecture: type[nn.Module]
    tower: Half
    text: Half
    joins: tuple[str, ...]
    kin: Family | None
    likeness: float

    @property
    def mrope(self) -> bool:
        """Whether its LLM places visual tokens by several axes."""
        return hasattr(_inner(self.architecture), "get_rope_index")

    @property
    def rotary(self) -> bool:
        """Whether the tower has the names that ``RotaryPositionViT`` reads, and the LLM several axes."""
        tower = self.tower
        named = tower.blocks == "blocks" and tower.block >= _ROTARY_BLOCK
        named &= all(any(name.startswith(part) for name in tower.names) for part in ("patch_embed.proj.", "merger."))
        return self.mrope and named and all(hasattr(tower.config, name) for name in _ROTARY_FIELDS)

    @property
    def weighty(self) -> dict[str, Any]:
        """Fields of its text config that scale, cap or hide something, where they are set."""
        text = self.text.config
        named = (each.name for each in fields(text) if _WEIGHTY.search(each.name))
        return {name: value for name in named if (value := getattr(text, name, None)) not in (None, False)}


def facts_of(model_type: str) -> Facts:
    """What the installed transformers says of ``model_type``.

    Raises:
        UsageError: transformers has no such type, there is a family for it, or it is no model of pictures and text.
        MachineError: transformers cannot make the model.
    """
    if model_type in families.names():
        raise UsageError(
            "there is a family for this model type",
            where="MODEL_TYPE",
            got=repr(model_type),
            fix=f"change export/families/{model_type}.py",
        )
    return described(model_type, frozenset())


def described(model_type: str, hidden: frozenset[str]) -> Facts:
    """As ``facts_of``, also of a type that has a family, which ``hidden`` then names with those made from it.

    Raises what ``facts_of`` raises.
    """
    config, architecture = _classes(model_type)
    if getattr(config, "vision_config", None) is None:
        raise _unmade(model_type, ValueError("its config has no vision_config of its own"))
    tower, text, joins = _halves(architecture, _small(config), model_type)
    likeness, kin = 0.0, None
    for name in families.built_in():
        if name in hidden:
            continue
        try:
            family = families.find(name, "new-family")
            theirs = halves_of_family(name)
        except MachineError:  # newer than the installed transformers
            continue
        alike = (_jaccard(tower.block, theirs[0].block) + _jaccard(text.block, theirs[1].block) / 4) / 1.25
        alike -= 0.01 * len(type(family).__mro__)  # of equals, the one that others are made from
        if alike > likeness:
            likeness, kin = alike, family
    return Facts(model_type, config, architecture, tower, text, joins, kin if likeness >= ALIKE else None, likeness)


@cache
def halves_of_family(name: str) -> tuple[Half, Half]:
    """Tower and text model of a family that is there.

    Raises:
        MachineError: The installed transformers is older than it.
    """
    family = families.find(name, "new-family")
    tower, text, _ = _halves(None, family.tiny_config(), name, family)
    return tower, text


def _classes(model_type: str) -> tuple[Any, type[nn.Module]]:
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as MODELS

    if model_type not in MODELS:
        raise UsageError(
            "transformers has no model of pictures and text of this type",
            where="MODEL_TYPE",
            got=f"{model_type!r}, transformers {transformers.__version__}",
            expected=did_you_mean(model_type, sorted(MODELS)),
            fix="take model_type of the checkpoint's config.json; a newer transformers may have it",
        )
    try:
        return CONFIG_MAPPING[model_type](), getattr(transformers, MODELS[model_type])
    except Exception as error:  # configs and models import what they like
        raise _unmade(model_type, error) from error


def _small(config: Any) -> Any:
    """The config with two blocks in every half: names are the same."""
    for half in (config.get_text_config(), config.vision_config):
        for name in ("num_hidden_layers", "depth"):
            if hasattr(half, name):
                setattr(half, name, 2)
        for name in ("layer_types", "mlp_layer_types"):
            if getattr(half, name, None):
                setattr(half, name, getattr(half, name)[:2])
        if half.to_dict().get("head_dim", 0) is None:  # which its checkpoints say
            half.head_dim = half.hidden_size // half.num_attention_heads
    return config


def _halves(
    architecture: type[nn.Module] | None, config: Any, model_type: str, family: Family | None = None
) -> tuple[Half, Half, tuple[str, ...]]:
    try:
        with torch.device("meta"):
            model: Any = family.build(config) if family else architecture(config)  # type: ignore[misc]
    except Exception as error:  # transformers raises almost anything
        raise _unmade(model_type, error) from error
    inner = getattr(model, "model", model)
    children = dict(inner.named_children())
    tower = _child(children, config.vision_config)
    text = _child(children, config.get_text_config())
    if tower is None or text is None:
        raise _unmade(model_type, ValueError(f"its halves are not among {', '.join(children)}"))
    rest = [f"{name}.{key}" for name, child in children.items() if name not in (tower, text) for key in _keys(child)]
    rest += [name for name, _ in inner.named_parameters(recurse=False)]
    rest += [f"{name}.{key}" for name, child in model.named_children() if child is not inner for key in _keys(child)]
    halves = (
        Half(tower, config.vision_config, _sizes(children[tower])),
        Half(text, config.get_text_config(), _sizes(children[text])),
    )
    return *halves, tuple(sorted(dict.fromkeys(rest)))


def _child(children: dict[str, Any], config: Any) -> str | None:
    return next(
        (name for name, child in children.items() if type(getattr(child, "config", None)) is type(config)), None
    )


def _sizes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    each = ((re.sub(r"(^|\.)\d+(?=\.)", r"\1N", name), part) for name, part in module.named_parameters())
    return {name: tuple(part.shape) for name, part in each}


def _keys(module: nn.Module) -> list[str]:
    return sorted(_sizes(module))


def _jaccard(one: Iterable[str], other: Iterable[str]) -> float:
    left, right = {*one}, {*other}
    return len(left & right) / len(left | right) if left | right else 0.0


def _inner(architecture: type[nn.Module]) -> Any:
    """The class of the model without its head, by transformers' way of naming."""
    module = sys.modules[architecture.__module__]
    name = architecture.__name__.replace("ForConditionalGeneration", "Model")
    return getattr(module, name, architecture)


def _unmade(model_type: str, error: Exception) -> MachineError:
    return MachineError(
        "transformers cannot make this model, so nothing is known of its modules",
        where=f"new-family {model_type}",
        got=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
        fix="install what it asks for, or write the file by docs/adding-a-family.md",
    )
