"""Pages: numbered lines of text in blocks (a table, a list, a form) with keyed figures in them.

A page is a grid of units of 28 pixels and has one line of text in every row of units. Its columns of units hold the
number of the line, the key, and, depending on the block, words that refer to other keys and figures of two digits.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from luvc_export.demo.scene import TOKEN

from .grounds import face
from .splits import draw_until

KEYS = (
    "apple", "pear", "plum", "kiwi", "lemon", "mango", "grape", "peach", "melon", "fig", "olive", "berry", "oak", "elm",
    "pine", "birch", "maple", "cedar", "cat", "dog", "fox", "owl", "bear", "wolf", "lion", "crow", "iron", "gold",
    "zinc", "lead", "lamp", "door", "desk", "book", "rope", "bell",
)  # fmt: skip
HEADS = ("cost", "mass", "size", "rate")  # of the columns of a table
PROSE = (
    "as",
    "per",
    "note",
    "all",
    "sums",
    "net",
    "due",
    "terms",
    "item",
    "page",
    "with",
    "and",
    "the",
    "total",
    "paid",
)
TITLES = ("INVOICE", "RECORD", "STOCK LIST", "REGISTER", "NOTES", "ACCOUNT", "SUPPLY", "FORM B")
BLOCKS = ("table", "list", "form")
FONTS = ("DejaVuSans", "DejaVuSansMono", "DejaVuSerif", "cmss10", "STIXGeneral", "DejaVuSans-Bold")
#: Of matplotlib and Pillow, on no page that trained or searched anything.
OTHER_FONTS = (
    "DejaVuSans-Oblique", "DejaVuSansMono-Bold", "DejaVuSerif-Bold", "STIXGeneralBol", "cmr10", "cmb10", "pillow",
)  # fmt: skip
SIZES = {"cmss10": (17, 18, 19), "STIXGeneral": (17, 18, 19), "DejaVuSansMono": (14, 15)} | {
    "STIXGeneralBol": (17, 18, 19),
    "cmr10": (17, 18, 19),
    "cmb10": (17, 18),
    "DejaVuSansMono-Bold": (14, 15),
}  # fmt: skip; others: 14 to 16 pixels
FORMATS = {"short": (10, 10), "page": (26, 10), "wide": (26, 16)}  # rows and columns of units
TEXT_COLUMNS = 10  # what is right of them on a wide page is prose alone
MOST_LINES = 34
STEPS = ("above", "below", "follow")
Paper = Literal["grained", "clean", "bare"]


@dataclass(frozen=True)
class Entry:
    """One figure of a page: its line (from 1), the key of the line, and the unit that shows it.

    `head` is the column of a table it stands in, `ref` the key its line refers to; -1 where there is none.
    """

    figure: int
    key: int
    line: int
    unit: tuple[int, int]
    head: int = -1
    ref: int = -1


@dataclass(frozen=True)
class Line:
    """What a line is: its block (or title, heading, header, prose), its key and reference, or -1."""

    kind: str
    key: int = -1
    ref: int = -1


@dataclass(frozen=True)
class Page:
    """What a page shows; `layout` is what decides its split."""

    rows: int
    columns: int
    lines: tuple[Line, ...]
    entries: tuple[Entry, ...]
    layout: tuple

    def chain(self) -> dict[int, Entry]:
        """Return the figures of lists and forms by key; a line of a table has two figures and no reference."""
        return {e.key: e for e in self.entries if e.head < 0}


def lay_out(rng: np.random.Generator, form: str) -> Page:
    """Draw a page of a format (short, page, wide): its blocks, keys, references and figures."""
    rows, columns = FORMATS[form][0], TEXT_COLUMNS
    order = [BLOCKS[i] for i in rng.permutation(3)]
    if form == "short":
        order = order[:1] if rng.random() < 0.3 else order[:2]
    kinds, split = ["title"], []
    free = rows - 1 - len(order) - int(rng.integers(0, max(1, rows // 8)))
    cuts = np.sort(rng.choice(np.arange(2, free - 1), len(order) - 1, replace=False)) if len(order) > 1 else []
    for block, size in zip(order, np.diff([0, *cuts, free]), strict=True):
        kinds += ["header" if block == "table" else "heading", *[block] * int(size)]
        split.append(int(size))
    while len(kinds) < rows:
        kinds.insert(int(rng.integers(1, len(kinds) + 1)), "prose")
    kinds = keep_headers(kinds)
    heads = tuple(int(h) for h in rng.permutation(len(HEADS))[:2])
    table = np.sort(rng.permutation([4, 6, 8][: (columns - 4) // 2])[:2]) + rng.integers(0, 2, 2)
    at = {
        "table": tuple(int(v) for v in table),
        "list": places(rng, columns),
        "form": places(rng, columns),
    }
    keyed = [i for i, kind in enumerate(kinds) if kind in BLOCKS]
    keys = dict(zip(keyed, (int(k) for k in rng.permutation(len(KEYS))), strict=False))
    chain = [keys[i] for i in keyed if i in keys and kinds[i] != "table"]
    lines, entries = [], []
    for i, kind in enumerate(kinds):
        key, ref = keys.get(i, -1), -1
        if kind == "table" and key >= 0:
            entries += [Entry(figure(rng), key, i + 1, (i, c), h) for h, c in zip(heads, at["table"], strict=True)]
        elif key >= 0:
            others = [k for k in chain if k != key]
            if others and rng.random() < 0.75:
                ref = others[int(rng.integers(len(others)))]
            entries.append(Entry(figure(rng), key, i + 1, (i, at[kind][1]), ref=ref))
        lines.append(Line(kind, key, ref))
    layout = (rows, columns, tuple(kinds), heads, *sorted(at.items()))
    return Page(rows, FORMATS[form][1], tuple(lines), tuple(entries), layout)


def keep_headers(kinds: list[str]) -> list[str]:
    """Move prose that came between a heading and its block in front of the heading."""
    for i in range(len(kinds) - 1, 0, -1):
        if kinds[i] == "prose" and kinds[i - 1] in ("header", "heading"):
            kinds[i - 1], kinds[i] = kinds[i], kinds[i - 1]
    return kinds


def places(rng: np.random.Generator, columns: int) -> tuple[int, int]:
    """Return the columns of units of a block's references (two or three units wide) and of its figures."""
    first = int(rng.integers(4, columns - 3))
    if rng.random() < 0.5:
        return first, int(rng.integers(first + 3, columns))
    return int(rng.integers(5, columns - 2)), 4


def figure(rng: np.random.Generator) -> int:
    """Return a figure of two digits."""
    return int(rng.integers(10, 100))


@cache
def text_ink(font: str, size: int, text: str) -> NDArray[np.float32]:
    """Return the ink of a word, float32 [24, w] in 0..1, cropped at the sides; its baseline is row 18."""
    canvas = Image.new("L", (16 + 2 * size * len(text), 24))
    ImageDraw.Draw(canvas).text((8, 18), text, fill=255, font=face(font, size), anchor="ls")
    left, _, right, _ = canvas.getbbox()
    return np.asarray(canvas.crop((left, 0, right, 24)), dtype=np.float32) / np.float32(255)


class Sheet:
    """Paper that words are printed on; `units[n, 2]` of every printed word says where its ink went.

    Paper is `grained`; or `clean`, of one colour as a rendered page is, neither shaded nor grained; or `bare`, clean
    and without words of prose. All other words stand where they stood.
    """

    def __init__(
        self, rng: np.random.Generator, page: Page, paper: Paper = "grained", fonts: tuple[str, ...] = FONTS
    ) -> None:
        self.rng, self.grained, self.bare = rng, paper == "grained", paper == "bare"
        self.height, self.width = page.rows * TOKEN, page.columns * TOKEN
        self.font = fonts[rng.integers(len(fonts))]
        self.size = int(rng.choice(SIZES.get(self.font, (14, 15, 16))))
        colour = rng.integers(200, 256, 3).astype(np.float32)
        y, x = np.linspace(0, 1, self.height)[:, None], np.linspace(0, 1, self.width)[None]
        shade = (rng.uniform(-18, 18) * y + rng.uniform(-18, 18) * x).astype(np.float32)
        self.pixels = colour + shade[..., None] * self.grained
        self.colour = rng.integers(0, 90, 3).astype(np.float32)
        self.ink = np.zeros((self.height, self.width), dtype=np.float32)

    def rule(self, row: int, left: int, right: int, at: int = TOKEN - 1) -> None:
        """Draw a thin line across columns of units of a row of units."""
        y = min(row * TOKEN + at, self.height - 1)
        self.ink[y, left * TOKEN : right * TOKEN] = np.maximum(self.ink[y, left * TOKEN : right * TOKEN], 0.5)

    def write(self, text: str, row: int, x: int, font: str | None = None) -> list[tuple[int, int]]:
        """Print a word at a row of units and a pixel from the left; return the units that got ink enough."""
        ink = text_ink(font or self.font, self.size, text)
        y, w = row * TOKEN + self.drop, min(ink.shape[1], self.width - x)
        window = self.ink[y : y + 24, x : x + w]
        np.maximum(window, ink[:, :w], out=window)
        shares = [
            (c, ink[:, max(0, c * TOKEN - x) : (c + 1) * TOKEN - x].sum())
            for c in range(x // TOKEN, (x + w - 1) // TOKEN + 1)
        ]
        return [(row, c) for c, share in shares if share >= 12 or share == max(s for _, s in shares)]

    def prose(self, row: int, x: int, right: int) -> None:
        """Print words from a pixel on, up to 70 pixels before another."""
        while x < right - 70:
            word = PROSE[self.rng.integers(len(PROSE))]
            if not self.bare:
                self.write(word, row, x)
            x += text_ink(self.font, self.size, word).shape[1] + 7

    def fit(self, text: str, column: int) -> int:
        """Return a place inside one unit, in pixels, at which a text of at most 28 pixels stands in it whole."""
        free = TOKEN - text_ink(self.font, self.size, text).shape[1]
        return column * TOKEN + int(self.rng.integers(0, max(1, free + 1)))

    def finish(self) -> NDArray[np.uint8]:
        """Return the printed page, uint8 [H, W, 3], with a frame and the grain of paper."""
        out = self.pixels * (1 - self.ink[..., None]) + self.colour * self.ink[..., None]
        grain = self.rng.standard_normal((self.height, self.width, 1), dtype=np.float32)
        out += grain * np.float32(self.rng.uniform(0, 5) * self.grained)
        return out.clip(0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Shown:
    """Where things stand: units of keys and references by line, heads of columns by unit; the share of inked pixels."""

    keys: dict[int, list[tuple[int, int]]]
    refs: dict[int, list[tuple[int, int]]]
    heads: dict[tuple[int, int], int]
    ink_share: float


def draw(
    rng: np.random.Generator, page: Page, paper: Paper = "grained", fonts: tuple[str, ...] = FONTS
) -> tuple[NDArray[np.uint8], Shown]:
    """Print a page: uint8 [rows * 28, columns * 28, 3], and where its words stand."""
    sheet = Sheet(rng, page, paper, fonts)
    keys: dict[int, list[tuple[int, int]]] = {}
    refs: dict[int, list[tuple[int, int]]] = {}
    heads: dict[tuple[int, int], int] = {}
    style = {name: bool(rng.random() < 0.5) for name in ("rules", "dots", "colon", "bold", "bands", "boxes")}
    at = dict(page.layout[4:])
    for row, line in enumerate(page.lines):
        sheet.drop = int(rng.integers(0, 5))
        sheet.write(str(row + 1), row, 2 + int(rng.integers(0, 5)))
        if page.columns > TEXT_COLUMNS and rng.random() < 0.8:
            sheet.prose(row, TEXT_COLUMNS * TOKEN + int(rng.integers(4, 12)), sheet.width)
        if line.kind in BLOCKS and line.key >= 0:
            end = ":" if line.kind == "form" and style["colon"] else ""
            keys[row] = sheet.write(KEYS[line.key] + end, row, TOKEN + int(rng.integers(1, 9)))
            if line.ref >= 0:
                refs[row] = sheet.write(KEYS[line.ref], row, at[line.kind][0] * TOKEN + int(rng.integers(0, 9)))
            if line.kind == "table" and style["rules"]:
                sheet.rule(row, 1, TEXT_COLUMNS)
            if line.kind == "form" and style["boxes"]:
                sheet.rule(row, at["form"][1], at["form"][1] + 1, 26)
            if line.kind == "list" and style["dots"] and line.ref < 0:
                sheet.write("." * 6, row, (at["list"][1] - 1) * TOKEN - 30)
        else:
            heads |= furnish(sheet, row, line, page, style)
    for entry in page.entries:
        sheet.drop = int(rng.integers(0, 5))
        sheet.write(str(entry.figure), entry.unit[0], sheet.fit(str(entry.figure), entry.unit[1]))
    share = float((sheet.ink > 0.3).mean())
    for side in (0, 1):
        sheet.ink[:, -side] = sheet.ink[-side] = 0.6
    return sheet.finish(), Shown(keys, refs, heads, share)


def furnish(sheet: Sheet, row: int, line: Line, page: Page, style: dict[str, bool]) -> dict[tuple[int, int], int]:
    """Print titles, headings, prose and the heads of a table; return the units of the latter and their heads."""
    rng, units = sheet.rng, {}
    if line.kind == "header":
        heads, at = page.layout[3], dict(page.layout[4:])["table"]
        for head, column in zip(heads, at, strict=True):
            most = TEXT_COLUMNS * TOKEN - text_ink(sheet.font, sheet.size, HEADS[head]).shape[1] - 1
            written = sheet.write(HEADS[head], row, min(most, column * TOKEN + int(rng.integers(-8, 2))))
            units |= dict.fromkeys(written, head)
        sheet.rule(row, 1, TEXT_COLUMNS)
    elif line.kind in ("title", "heading"):
        title = TITLES[rng.integers(len(TITLES))]
        sheet.write(title, row, TOKEN * int(rng.integers(1, 4)), "DejaVuSans-Bold" if style["bold"] else None)
    else:
        sheet.prose(row, TOKEN + int(rng.integers(0, 12)), TEXT_COLUMNS * TOKEN)
    return units


def render(
    rng: np.random.Generator, split: str, form: str, paper: Paper = "grained", fonts: tuple[str, ...] = FONTS
) -> tuple[NDArray[np.uint8], Page, Shown]:
    """Return (uint8 picture, what the page holds, where it stands); its layout is one of the split's."""
    page = draw_until(lambda: lay_out(rng, form), lambda drawing: drawing.layout, split)
    image, shown = draw(rng, page, paper, fonts)
    return image, page, shown
