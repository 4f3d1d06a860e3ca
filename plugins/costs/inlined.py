"""What TensorRT would move for the same nodes without plugins, at the least.

The inlined bodies (export/surgeon/fused) after every fusion one may hope for: pointwise operators with the reduction or
product beside them, transposes inside products, views for nothing. What is left is a list of passes over memory. Its
products take TF32 once, which TensorRT does with fp32 by default: a third of ours, and not fp32's accuracy.
"""

from __future__ import annotations

from costs.kernels import FLOAT, INDEX, Launch, Merge, Prune


def prune(shape: Prune) -> list[Launch]:
    """RMSNorm, two products, norms of rows, TopK by score and by place, one gather of all that travels."""
    g, n, d, m, k = shape.groups, shape.tokens, shape.channels, shape.frequencies, shape.keep
    values, wide, basis = g * n * d * shape.element, g * n * d * FLOAT, n * m * FLOAT
    tones, scores, row = g * m * d * FLOAT, g * n * FLOAT, d * shape.element + shape.rows
    plain = wide if shape.residual or shape.ratio else 0
    return [
        Launch("RMSNormalization", values, wide),
        Launch("MatMul", wide + basis, tones, g * n * m * d),
        Launch("MatMul", tones + basis, wide, g * n * m * d),
        Launch("ReduceL2", wide + plain, scores),
        Launch("TopK", scores, g * k * (FLOAT + INDEX)),
        Launch("TopK", g * k * INDEX, 2 * g * k * INDEX),
        Launch("Gather", g * k * (INDEX + row), g * k * row),
    ]


def merge(shape: Merge) -> list[Launch]:
    """Both axes: unit vectors, products of neighbours, two TopK, the one-hot matrix, three products with it."""
    middle = shape.width - shape.columns
    first = _axis(shape, shape.batch * shape.height, shape.width, middle)
    return first + _axis(shape, shape.batch * middle, shape.height, shape.height - shape.rows)


def _axis(shape: Merge, lines: int, before: int, after: int) -> list[Launch]:
    units, left, c = lines * before, lines * after, shape.channels
    values, wide, hot = units * c * shape.element, units * c * FLOAT, lines * after * before * FLOAT
    odd = lines * (before // 2) * FLOAT
    return [
        Launch("ReduceL2, Div", values, wide),
        Launch("Mul, ReduceSum", wide, units * FLOAT),
        Launch("TopK", odd, odd),
        Launch("TopK", units * INDEX, 2 * left * INDEX),
        Launch("Equal, Cast", units * INDEX + left * INDEX, hot),
        Launch("MatMul", hot + units * FLOAT, left * FLOAT, lines * after * before),
        Launch("Mul", values + units * FLOAT, wide),
        Launch("MatMul, Div", hot + wide, left * c * shape.element, lines * after * before * c),
        Launch("MatMul, Div", hot + 3 * units * FLOAT, 2 * left * FLOAT, lines * after * before * 2),
        Launch("ArgMax", hot, units * INDEX),
    ]
