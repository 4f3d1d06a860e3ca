"""Bytes and tensor-core multiply-adds of each launch, from its sizes.

Bytes are those of device memory, each counted once a launch: what a cache that holds everything would still move. The
emulation counts the same while it runs (``luvc_emulate_counts``), and ``tests/plugins/test_costs.py`` compares the two
to the byte. Tiles are whole, so products count rows of zeros too.
"""

from __future__ import annotations

from dataclasses import dataclass

TILE, DEPTH, SPLIT = 64, 32, 3  # of plugins/cuda/split_tf32.cuh: tile, depth, products for each of fp32
INDEX, FLOAT = 8, 4


@dataclass(frozen=True)
class Launch:
    """One kernel: bytes read and written, multiply-adds of tensor cores."""

    name: str
    read: int
    written: int
    products: int = 0

    @property
    def moved(self) -> int:
        """Bytes both ways."""
        return self.read + self.written


@dataclass(frozen=True)
class Prune:
    """G groups of N tokens with D channels of ``element`` bytes, M frequencies, K kept.

    Attributes:
        groups: G.
        tokens: N.
        channels: D.
        frequencies: M.
        keep: K.
        element: Bytes of a number; weights have the same.
        residual: The score looks at what the filter took away.
        ratio: The score divides by the whole.
        rows: Bytes of payloads that travel with a token.
    """

    groups: int
    tokens: int
    channels: int
    frequencies: int
    keep: int
    element: int = 2
    residual: bool = False
    ratio: bool = False
    rows: int = 0

    def launches(self) -> list[Launch]:
        """As ``luvc_spectrum_prune_cuda`` puts them on a stream, 0 < K < N."""
        g, n, d, m, k = self.groups, self.tokens, self.channels, self.frequencies, self.keep
        values, weight = g * n * d * self.element, d * self.element
        each, basis, coefficients = g * n * FLOAT, n * m * FLOAT, g * m * d * FLOAT
        tiles = _up(d, TILE) // TILE
        again = values + weight + each if self.residual else 0
        project = g * _up(d, TILE) * _up(m, TILE) * _up(n, DEPTH) * SPLIT
        filtered = g * _up(d, TILE) * _up(n, TILE) * _up(m, DEPTH) * SPLIT
        row = d * self.element + self.rows
        return [
            Launch("row_norm", values + weight, 2 * each),
            Launch("project", values + weight + each + basis, coefficients, project),
            Launch("filter", basis + coefficients + again, tiles * each, filtered),
            Launch("finish", tiles * each + (each if self.ratio else 0), each),
            Launch("select", each, g * k * INDEX),
            Launch("gather", g * k * (INDEX + row), g * k * row),
        ]


@dataclass(frozen=True)
class Merge:
    """B grids of H x W units of C channels, of which columns and rows leave; positions have two numbers.

    Attributes:
        batch: B.
        height: H.
        width: W.
        channels: C.
        columns: That leave every row.
        rows: That leave every column.
        element: Bytes of a number.
    """

    batch: int
    height: int
    width: int
    channels: int
    columns: int
    rows: int
    element: int = 2

    def launches(self) -> list[Launch]:
        """As ``luvc_orthogonal_merge_cuda`` puts them on a stream, with columns and rows to remove."""
        middle = self.width - self.columns
        first = self._axis(self.batch * self.height, self.width, middle)
        second = self._axis(self.batch * middle, self.height, self.height - self.rows)
        units = self.batch * self.height * self.width
        place = Launch("place", (units + self.batch * self.height * middle) * FLOAT, units * FLOAT)
        return [*first, *second, place]

    def _axis(self, lines: int, before: int, after: int) -> list[Launch]:
        units, left = lines * before, lines * after
        unit, small = self.channels * self.element, 3 * FLOAT  # size and position
        pairs = before // 2 + (before - 1) // 2  # a line's last product goes unread, and its last norm where it is even
        norms = pairs + 1
        return [
            Launch("neighbour", units * unit, 2 * units * FLOAT),
            Launch("decide", lines * (norms + pairs) * FLOAT, (units + left) * FLOAT),
            Launch("move", units * (unit + small) + (units + left) * FLOAT, left * (unit + small)),
        ]


def _up(count: int, step: int) -> int:
    return -(-count // step) * step
