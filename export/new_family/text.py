"""The skeleton of a family's file and of its test checkpoint, and the questions that nothing answers but a person."""

from __future__ import annotations

import inspect
import json
import re
import textwrap
from dataclasses import dataclass, fields
from typing import Any

from luvc_export.export.new_family.facts import Facts, halves_of_family

#: Sizes of tiny configs by the name of the field, where a config has it.
_VISION = {"image_size": 64, "patch_size": 8, "head_dim": 16}
_TEXT = {"head_dim": 16}
_TOP = {
    "image_token_id": 250,
    "image_token_index": 250,
    "image_seq_length": 16,
    "scale_factor": 2,
    "spatial_merge_size": 2,
}
#: Marks that ``_tiny.QWEN_TOKENS`` has all of.
_QWEN = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")


@dataclass(frozen=True)
class Skeleton:
    """Two files and what is open: ``questions`` are those that the family's file lists too."""

    family: str
    checkpoint: str
    questions: tuple[str, ...]


def skeleton(facts: Facts) -> Skeleton:
    """The files of a model that has no family yet."""
    questions = _questions(facts)
    return Skeleton(_family(facts, questions), _checkpoint(facts), questions)


def _family(facts: Facts, questions: tuple[str, ...]) -> str:
    name, config, architecture = (
        type(facts.config).__name__.removesuffix("Config"),
        type(facts.config).__name__,
        facts.architecture.__name__,
    )
    kin = facts.kin
    imports = {f"from transformers import {', '.join(sorted({config, architecture}))}"}
    imports.add("from luvc_export.export.families import _tiny")
    vision, methods = "", ""
    if kin is None and facts.rotary:
        base, vision = "MropeFamily", _ROTARY_VISION
        imports |= {
            "from torch import Tensor",
            "from luvc_export.export.llm.mrope import MropeFamily",
            "from luvc_export.export.towers.rotary_position_vit import RotaryPositionViT",
        }
        imports |= {line for word, line in _SHAPE_IMPORTS.items() if word in (methods := _encoder_shape(facts))}
        if "video" not in _modalities(facts):
            imports.add("from luvc_export.core.tiling import Video")
            methods += _NO_VIDEO
    elif kin is None:
        base = "MropeFamily" if facts.mrope else "Family"
        imports |= {"from torch import nn", "from luvc_export.core.plan import Plan"}
        own = "Normalise" if facts.mrope else "Family, Normalise"
        imports.add(f"from luvc_export.export.families.base import {own}")
        imports |= {"from luvc_export.export.llm.mrope import MropeFamily"} if facts.mrope else set()
        methods += _NO_TOWER
    else:
        base, module = type(kin).__name__, type(kin).__module__.rpartition(".")[2]
        theirs = getattr(kin, "encoder", None)
        if (moved := _moved(facts)) and inspect.isclass(theirs):
            imports -= {"from luvc_export.export.families import _tiny"}
            imports.add(f"from luvc_export.export.families import _tiny, {module}")
            vision, base = _VISION_CLASS.format(module=module, kind=theirs.__name__, blocks=moved), f"{module}.{base}"
        else:
            imports.add(f"from luvc_export.export.families.{module} import {base}")
        if kin.video(kin.tiny_config()) is not None and "video" not in _modalities(facts):
            imports.add("from luvc_export.core.tiling import Video")
            methods += _NO_VIDEO
    standard = {line for line in imports if line.startswith("from dataclasses")}
    standard |= {"from typing import Any"} if "Any" in vision + methods else set()
    outer, ours = ([line for line in sorted(imports - standard) if ("luvc" in line) == own] for own in (False, True))
    listed = "".join(map(_listed, questions))
    return _FAMILY.format(
        title=name,
        typing="".join(f"{line}\n" for line in sorted(standard)) + "\n" * bool(standard),
        imports="\n".join([*outer, "", *ours]),
        vision=vision,
        name=name,
        base=base,
        model_type=facts.model_type,
        architecture=architecture,
        encoder="    encoder = Vision\n" if vision else "",
        questions=listed,
        methods=methods,
        config=config,
        tiny=_tiny(facts),
    )


def _encoder_shape(facts: Facts) -> str:
    """``encoder_shape`` of a tower with the names of Qwen-VL, where ``Family``'s would not be that of its weights."""
    vision, (width, inside) = facts.tower.config, facts.tower.widths
    if (getattr(vision, "hidden_size", 0), getattr(vision, "intermediate_size", 0)) == (width, inside):
        return _GATED if any("mlp.gate" in name for name in facts.tower.block) else ""
    named = [name for name in sorted(_names(vision)) if getattr(vision, name) == width]
    if not named or int(width * getattr(vision, "mlp_ratio", 0)) != inside:
        return ""
    return _BY_RATIO.format(width=named[0])


def _tiny(facts: Facts) -> str:
    """Arguments of the tiny config."""
    vision, text, top = facts.tower.config, facts.text.config, facts.config
    sizes = _arguments(vision, _VISION)
    qwen = hasattr(vision, "depth") and "num_heads" in _names(vision)
    towers = "qwen_vision" if qwen else "vision"
    sizes = {name: value for name, value in sizes.items() if not qwen or name == "patch_size"}
    nested = {"model_type": vision.model_type} if _by_type(facts, "vision_config") else {}
    lines = [f"vision_config=_tiny.{towers}({_written({**nested, **sizes})}),"]
    if facts.kin is None and facts.rotary and "mlp_ratio" in _names(vision):
        widths = {name: 32 for name in sorted(_names(vision)) if getattr(vision, name) == facts.tower.widths[0]}
        own_names = {"depth": 3, **widths, "mlp_ratio": 2, "num_heads": 2}
        lines = [f"vision_config={json.dumps({'depth': 3, 'hidden_size': 64} | own_names)},"]
    own = {"model_type": text.model_type} if _by_type(facts, "text_config") else {}
    asked = _written({**own, **_arguments(text, _TEXT)})
    asked += ", rope_parameters=_tiny.mrope(2, 3, 3), **_tiny.ENDS" if facts.mrope else ""
    lines.append(f"text_config=_tiny.text({asked.removeprefix(', ')}),")
    if all(name in _names(top) for name in _QWEN):
        lines.append("**_tiny.QWEN_TOKENS,")
        return "\n            ".join(lines)
    lines += [f"{name}={value}," for name, value in _arguments(top, _TOP).items()]
    return "\n            ".join(lines)


def _questions(facts: Facts) -> tuple[str, ...]:
    """What the config does not say, each in a line: what it is about, and what is known of it."""
    mergers = [name for name in sorted(facts.tower.names) if facts.rotary and name.startswith("merger.")]
    modules = dict.fromkeys(re.sub(r"\.(weight|bias)$", "", name) for name in (*mergers, *facts.joins))
    joins = ", ".join([*modules][:8]) or "no modules"
    lines = [f"merge order: how do {joins} join the patches of a unit? (finish, side)"]
    if facts.kin is not None:
        theirs = facts.kin.model_type
        lines.append(f"names: does everything that {theirs} computes hold here? {_differences(facts)}")
    elif facts.rotary:
        lines.append(f"names: RotaryPositionViT computes this tower but for {_unread(facts)}. Is that all? (Vision)")
    else:
        block = ", ".join(sorted(facts.tower.block)[:12])
        lines.append(f"tower: no family has these blocks ({block}): which of export/towers, and by which names?")
    kind = "several axes (mrope)" if facts.mrope else "one after another"
    lines.append(f"positions: the LLM seems to place visual tokens {kind}: is that so, and what ends a row? (cut)")
    weighty = ", ".join(f"{name} {value}" for name, value in facts.weighty.items()) or "the config names none"
    lines.append(f"soft caps and factors: {weighty}. Does the decoder heed them? (decoder)")
    lines.append("template: what do the template and the processor write for a picture? (cut, template_marker)")
    return tuple(lines)


def _unread(facts: Facts) -> str:
    """Parameters and fields of a tower with the names of Qwen-VL that ``RotaryPositionViT`` does not read by itself."""
    tower = facts.tower
    read = re.compile(r"(blocks\.N\.(norm[12]|attn\.(qkv|proj)|mlp\..*)|(patch_embed|merger)\..*)\.(weight|bias)")
    parts = [name for name in sorted(tower.names) if not read.fullmatch(name)]
    parts += [name for name in sorted(_names(tower.config)) if re.search("window|fullatt|deepstack", name)]
    return ", ".join(parts) or "its merger alone"


def _differences(facts: Facts) -> str:
    """Parameters that the tower or the text model has and its kin's has not, and the other way round."""
    assert facts.kin is not None
    tower, text = halves_of_family(facts.kin.model_type)
    parts = []
    for label, own, other in (("tower", facts.tower, tower), ("text model", facts.text, text)):
        more, less = sorted(own.block - other.block), sorted(other.block - own.block)
        more += sorted(own.beside - other.beside)
        parts += [f"its {label} also has {', '.join(more[:6])}"] if more else []
        parts += [f"its {label} lacks {', '.join(less[:6])}"] if less else []
    return "; ".join(parts) or "all parameters of both halves have the same names"


def _moved(facts: Facts) -> str:
    """Where the tower's blocks lie, if its kin's lie elsewhere."""
    assert facts.kin is not None
    tower, _ = halves_of_family(facts.kin.model_type)
    return "" if facts.tower.blocks == tower.blocks else facts.tower.blocks


def _checkpoint(facts: Facts) -> str:
    """The test checkpoint: what a repository has beside its weights."""
    processor = f"{type(facts.config).__name__.removesuffix('Config')}Processor"
    module = f"transformers.models.{facts.model_type}.processing_{facts.model_type}"
    return _CHECKPOINT.format(model_type=facts.model_type, processor=processor, module=module)


def _listed(question: str) -> str:
    """A question as an entry of a tuple, in lines of the house's length."""
    whole = len(json.dumps(question)) <= 111
    lines = [question] if whole else textwrap.wrap(question, 100, drop_whitespace=False)
    return f"        {f'{chr(10)}        '.join(json.dumps(line) for line in lines)},\n"


def _modalities(facts: Facts) -> tuple[str, ...]:
    return tuple(getattr(facts.architecture, "input_modalities", ()) or ())


def _names(config: Any) -> set[str]:
    return {each.name for each in fields(config)}


def _arguments(config: Any, wanted: dict[str, int]) -> dict[str, Any]:
    return {name: value for name, value in wanted.items() if name in _names(config)}


def _by_type(facts: Facts, half: str) -> bool:
    """Whether a half of the config is of any type, which must then be named."""
    kind = type(getattr(facts.config, half)).__module__
    return kind.rpartition(".")[0] != type(facts.config).__module__.rpartition(".")[0]


def _written(values: dict[str, Any]) -> str:
    return ", ".join(
        f'{name}="{value}"' if isinstance(value, str) else f"{name}={value}" for name, value in values.items()
    )


_FAMILY = '''"""{title}: which tower, how its patches become tokens, which text model."""

from __future__ import annotations

{typing}{imports}

{vision}
class {name}({base}):
    """{title}."""

    model_type = "{model_type}"
    architecture = {architecture}
{encoder}    #: Take a line away when it is answered: while one is there nothing is exported, and the tests fail.
    open_questions = (
{questions}    )
{methods}
    def tiny_config(self) -> {config}:
        """Small halves with every feature of the family."""
        return {config}(
            {tiny}
        )


FAMILY = {name}()
'''
_VISION_CLASS = '''
class Vision({module}.{kind}):
    """By its own name of the blocks."""

    def layers(self) -> Any:
        """Encoder blocks."""
        return self.tower.{blocks}

'''
_ROTARY_VISION = '''
class Vision(RotaryPositionViT):
    """Encoder, and the merger that joins the patches of a unit."""

    def finish(self, x: Tensor) -> Tensor:
        """[n, U * patches, C] -> [n, U, D]."""
        merger = self.visual.merger
        raise NotImplementedError(f"which of the patches of a unit comes first in this? {merger}")

'''
_SHAPE_IMPORTS = {
    "EncoderShape": "from luvc_export.core.shapes import EncoderShape",
    "replace(": "from dataclasses import replace",
}
_GATED = '''
    def encoder_shape(self, config: Any) -> EncoderShape:
        """Sizes from ``vision_config``, gated MLPs."""
        return replace(super().encoder_shape(config), gated=True)
'''
_BY_RATIO = '''
    def encoder_shape(self, config: Any) -> EncoderShape:
        """Sizes from ``vision_config``, by its own names."""
        width, blocks, unit = config.vision_config.{width}, self.blocks(config), self.side(config) ** 2
        inside = int(width * config.vision_config.mlp_ratio)
        return EncoderShape(blocks, width, inside, unit, 0, tuple(range(blocks)))
'''
_NO_TOWER = '''
    def vision(self, model: Any, plan: Plan, normalise: Normalise) -> nn.Module:
        """The tower with the plan's merges."""
        raise NotImplementedError("; ".join(self.open_questions))
'''
_NO_VIDEO = '''
    def video(self, config: Any) -> Video | None:
        """None: transformers' model takes pictures alone."""
        return None
'''
_CHECKPOINT = '''"""What {model_type} checkpoints have beside their weights."""

from __future__ import annotations

from typing import Any

from family_checkpoints import FamilyCheckpoint, Parts
from {module} import {processor}


def _processor(tiny: Any, parts: Parts) -> Any:
    return {processor}(**parts)


CHECKPOINT = FamilyCheckpoint(
    tokens={{"<image>": 250}},
    picture="<image>",
    images="{model_type}",
    processor=_processor,
)
'''
