"""The logical order of rows, for layers that go through them one after another (``DecoderShape.states``).

A decoder holds [visual | text] whatever the prompt. Attention does not mind; a convolution or a recurrence does. So
what such a layer makes of its rows is gathered to logical order and back: the order that ``visual_order`` and ``order``
say, which prunes carry along. Dropped tokens are not there and reach no such layer. Text that is padding comes last.

Visual rows keep the order they lie in, and so does text; where one goes between the other's follows from how many
visual rows stand before each text row. No sort, no scatter: comparisons of [text, visual] and of [rows, text].
"""

from __future__ import annotations

import torch
from torch import Tensor

from luvc_export.export.llm.span import rows_at

#: Behind every row of a prompt.
_LAST = 2**40


class LogicalOrder:
    """Where the rows of one stage stand.

    Args:
        order: Logical place of all rows [visual | text], int64 [B, V + T].
        pictures: V.
        text: Logical place of the text rows, int64 [B, T].
        text_mask: Which text is no padding, bool [B, P + T], as ``graph_io`` says.
    """

    def __init__(self, order: Tensor, pictures: int, text: Tensor, text_mask: Tensor) -> None:
        words = text.shape[1]
        length, visual = pictures + words, order.index_select(1, torch.arange(pictures))
        real = text_mask.index_select(1, torch.arange(words) + (text_mask.shape[1] - words))
        text = torch.where(real, text, torch.tensor(_LAST))
        before = (visual[:, None] < text[:, :, None]).to(torch.int64).sum(2)
        text_places = torch.arange(words) + before
        places = torch.arange(length)[:, None]
        earlier = (text_places[:, None] < places).to(torch.int64).sum(2)
        is_text = (text_places[:, None] == places).to(torch.int64).sum(2) > 0
        visual_rows = torch.arange(pictures)[:, None]
        visual_places = torch.arange(pictures) + (before[:, None] <= visual_rows).to(torch.int64).sum(2)
        #: Row that stands at each logical place, and the place of each row, int64 [B, V + T].
        self.rows = torch.where(is_text, pictures + earlier, torch.arange(length) - earlier)
        self.places = torch.cat([visual_places, text_places], 1)
        #: Rows that are no padding, the first ones in logical order, int64 [B, 1].
        self.count = pictures + real.to(torch.int64).sum(1, keepdim=True)

    def arrange(self, values: Tensor) -> Tensor:
        """Rows [B, V + T, ...] in logical order."""
        return rows_at(values, self.rows)

    def back(self, values: Tensor) -> Tensor:
        """Rows in logical order [B, V + T, ...] where they lie."""
        return rows_at(values, self.places)

    def last(self, values: Tensor, count: int) -> Tensor:
        """The last ``count`` rows that are no padding, of [B, count + V + T, C] whose first ``count`` came before."""
        return rows_at(values, self.count + torch.arange(count))
