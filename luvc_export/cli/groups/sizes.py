"""Options that choose the sizes of a bundle's image input: pixels, or ceilings of visual tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from luvc_export.core.image_tokens import shapes, size_of
from luvc_export.core.options import option
from luvc_export.core.options.texts import size
from luvc_export.errors import UsageError

if TYPE_CHECKING:
    from luvc_export.export.checkpoint import Checkpoint


@dataclass(frozen=True)
class SizeOptions:
    """Sizes of the image input."""

    image_size: tuple[str, ...] = option(
        (), "Image input; repeat. Default: the family's or 672x672.", metavar="HxW", verbs=("export", "trial")
    )
    image_tokens: str | None = option(
        None,
        "Most visual tokens of a picture, in place of --image-size: a near-square size for each, 280@16:9 one for "
        "pictures of that shape; auto: the budgets that the model was trained with (Gemma 4: 70 to 1120), or 144, 576 "
        "and 1024.",
        metavar="N[@W:H][,N..]|auto",
    )

    def sizes(self, checkpoint: Checkpoint) -> list[tuple[int, int]]:
        """Heights and widths in pixels; none where nothing was said.

        Raises:
            UsageError: Both options are given, one cannot be read, two ceilings make one size, or the model takes one
                size alone.
        """
        if self.image_tokens is None:
            return [each for each in map(size, self.image_size) if each]
        if self.image_size:
            raise UsageError(
                "a ceiling of visual tokens makes the size", where="--image-tokens, --image-size", fix="give one"
            )
        return sizes_of_tokens(self.image_tokens, checkpoint)

    def words(self) -> tuple[str, ...]:
        """What says the same on the command line of another verb, for one size.

        Raises:
            UsageError: More than one size is asked for, or an option cannot be read.
        """
        stated = [("--image-size", text) for text in self.image_size]
        count = len([size(text) for _, text in stated])
        if self.image_tokens is not None:
            stated.append(("--image-tokens", self.image_tokens))
            count += len(shapes(self.image_tokens))
        if count > 1:
            got = " ".join(word for pair in stated for word in pair)
            raise UsageError("this is for one size", where="--image-size, --image-tokens", got=got, fix="give one")
        return tuple(word for pair in stated for word in pair)


def sizes_of_tokens(text: str, checkpoint: Checkpoint) -> list[tuple[int, int]]:
    """Heights and widths in pixels for ``--image-tokens``.

    Raises:
        UsageError: See ``SizeOptions.sizes``.
    """
    family, config = checkpoint.family, checkpoint.config
    wanted, fixed = shapes(text, family.image_budgets(config)), family.image_size(config)
    if fixed is not None:
        raise UsageError(
            f"{family.model_type} takes pictures of one size",
            where="--image-tokens",
            got=text,
            expected=f"{fixed[0]}x{fixed[1]}, which its position embeddings are learned for",
            fix="leave it out; --tiles and --plan say how many tokens the LLM sees",
        )
    sizes = [size_of(tokens, family.unit_pixels(config), shape) for tokens, shape in wanted]
    if len(set(sizes)) != len(sizes):
        raise UsageError(
            "two ceilings make the same size", where="--image-tokens", got=text, expected="ceilings further apart"
        )
    return sizes


def one_size(text: str | None, tokens: str | None, checkpoint: Checkpoint) -> tuple[int, int] | None:
    """Height and width in pixels of ``--image-size`` or ``--image-tokens``; None where neither is given.

    Raises:
        UsageError: See ``SizeOptions.sizes``; or more than one ceiling is given.
    """
    sizes = SizeOptions(() if text is None else (text,), tokens).sizes(checkpoint)
    if len(sizes) > 1:
        raise UsageError("a plan is for one size", where="--image-tokens", got=tokens, expected="one ceiling")
    return sizes[0] if sizes else None
