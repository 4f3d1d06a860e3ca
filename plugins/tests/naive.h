// The formulas of ALGORITHM.md written down a second time, slowly and without sharing code with the library.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

namespace luvc::test {

using Floats = std::vector<float>;
using Indices = std::vector<int64_t>;

// Full stable sort of one group by descending score, NaN as -infinity; the first `keep`, ascending.
inline Indices naive_top_k(const float* scores, int64_t count, int64_t keep) {
    const auto value = [scores](int64_t i) {
        return std::isnan(scores[i]) ? -std::numeric_limits<float>::infinity() : scores[i];
    };
    Indices order(static_cast<size_t>(count));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return value(a) > value(b); });
    order.resize(static_cast<size_t>(keep));
    std::sort(order.begin(), order.end());
    return order;
}

// Orthonormal low-frequency basis [length, 2 cutoff + 1].
inline Floats lowpass_basis(int64_t length, int64_t cutoff) {
    const int64_t columns = 2 * cutoff + 1;
    Floats basis(static_cast<size_t>(length * columns));
    const auto n = static_cast<double>(length);
    for (int64_t t = 0; t < length; ++t) {
        float* row = basis.data() + t * columns;
        row[0] = static_cast<float>(1 / std::sqrt(n));
        for (int64_t f = 1; f <= cutoff; ++f) {
            const double angle = 2 * std::acos(-1.0) * static_cast<double>(f * t % length) / n;
            row[2 * f - 1] = static_cast<float>(std::sqrt(2 / n) * std::cos(angle));
            row[2 * f] = static_cast<float>(std::sqrt(2 / n) * std::sin(angle));
        }
    }
    return basis;
}

enum class Score { low, residual, ratio };

// Scores of one group: column by column of the hidden size, in double.
inline Floats naive_scores(const Floats& values, const Floats& weight, const Floats& basis, int64_t tokens,
    int64_t channels, int64_t frequencies, double epsilon, Score score) {
    const auto at = [](const Floats& array, int64_t i) { return double{array[static_cast<size_t>(i)]}; };
    std::vector<double> passed(static_cast<size_t>(tokens));
    std::vector<double> removed(passed);
    std::vector<double> total(passed);
    std::vector<double> scale(passed);
    for (int64_t n = 0; n < tokens; ++n) {
        double mean = 0;
        for (int64_t d = 0; d < channels; ++d) {
            mean += std::pow(at(values, n * channels + d), 2) / static_cast<double>(channels);
        }
        scale[static_cast<size_t>(n)] = 1 / std::sqrt(mean + epsilon);
    }
    std::vector<double> column(passed);
    for (int64_t d = 0; d < channels; ++d) {
        for (int64_t n = 0; n < tokens; ++n) {
            column[static_cast<size_t>(n)] =
                at(values, n * channels + d) * scale[static_cast<size_t>(n)] * at(weight, d);
        }
        std::vector<double> spectrum(static_cast<size_t>(frequencies));
        for (int64_t n = 0; n < tokens; ++n) {
            for (int64_t m = 0; m < frequencies; ++m) {
                spectrum[static_cast<size_t>(m)] += at(basis, n * frequencies + m) * column[static_cast<size_t>(n)];
            }
        }
        for (int64_t n = 0; n < tokens; ++n) {
            double smooth = 0;
            for (int64_t m = 0; m < frequencies; ++m) {
                smooth += at(basis, n * frequencies + m) * spectrum[static_cast<size_t>(m)];
            }
            const auto i = static_cast<size_t>(n);
            passed[i] += smooth * smooth;
            removed[i] += (column[i] - smooth) * (column[i] - smooth);
            total[i] += column[i] * column[i];
        }
    }
    Floats scores(static_cast<size_t>(tokens));
    for (size_t i = 0; i < scores.size(); ++i) {
        const double result = score == Score::low        ? std::sqrt(passed[i])
                              : score == Score::residual ? std::sqrt(removed[i])
                                                         : std::sqrt(passed[i] / total[i]);
        scores[i] = static_cast<float>(result);
    }
    return scores;
}

// Units of one image, in double.
struct NaiveGrid {
    int64_t height, width, channels, planes;
    std::vector<double> values, sizes, positions;
    std::vector<int64_t> merged_into;
    bool padded = false;
};

// AXIS of ALGORITHM.md over the rows of a grid, with the one-hot assignment spelled out.
inline NaiveGrid naive_merge_rows(const NaiveGrid& grid, int64_t removed) {
    const int64_t width = grid.width;
    const int64_t kept_width = width - removed;
    const auto cells = static_cast<size_t>(grid.height * kept_width);
    NaiveGrid out{grid.height, kept_width, grid.channels, grid.planes,
        std::vector<double>(cells * static_cast<size_t>(grid.channels)), std::vector<double>(cells),
        std::vector<double>(cells * static_cast<size_t>(grid.planes)), {}, grid.padded};
    std::vector<int64_t> moved(static_cast<size_t>(grid.height * width));
    for (int64_t row = 0; row < grid.height; ++row) {
        const auto cosine = [&](int64_t left) {
            if (grid.padded) {
                const auto first = static_cast<size_t>(row * width + left);
                const int small = (grid.sizes[first] < 0.5 ? 1 : 0) + (grid.sizes[first + 1] < 0.5 ? 1 : 0);
                const float share = static_cast<float>(left) / static_cast<float>(width - 1);
                if (small == 2) return 4 - share;
                if (small == 1) return -3 - share;
            }
            double dot = 0, a = 0, b = 0;
            for (int64_t c = 0; c < grid.channels; ++c) {
                const double x = grid.values[static_cast<size_t>((row * width + left) * grid.channels + c)];
                const double y = grid.values[static_cast<size_t>((row * width + left + 1) * grid.channels + c)];
                dot += x * y;
                a += x * x;
                b += y * y;
            }
            const auto result =
                static_cast<float>(dot / (std::max(std::sqrt(a), 1e-12) * std::max(std::sqrt(b), 1e-12)));
            return std::isnan(dot) ? -std::numeric_limits<float>::infinity() : result;
        };
        Floats best;
        std::vector<int64_t> neighbour;
        for (int64_t odd = 1; odd < width; odd += 2) {
            const float left = cosine(odd - 1);
            const bool right_better = odd + 1 < width && cosine(odd) > left;
            best.push_back(right_better ? cosine(odd) : left);
            neighbour.push_back(right_better ? odd + 1 : odd - 1);
        }
        std::vector<int64_t> target(static_cast<size_t>(width));
        std::iota(target.begin(), target.end(), 0);
        for (int64_t i : naive_top_k(best.data(), static_cast<int64_t>(best.size()), removed)) {
            target[static_cast<size_t>(2 * i + 1)] = neighbour[static_cast<size_t>(i)];
        }
        std::vector<int64_t> kept;
        for (int64_t j = 0; j < width; ++j) {
            if (target[static_cast<size_t>(j)] == j) kept.push_back(j);
        }
        for (size_t k = 0; k < kept.size(); ++k) {
            const auto cell = static_cast<size_t>(row * kept_width) + k;
            for (int64_t j = 0; j < width; ++j) {
                if (target[static_cast<size_t>(j)] != kept[k]) continue;
                const auto from = static_cast<size_t>(row * width + j);
                const double size = grid.sizes[from];
                moved[from] = static_cast<int64_t>(k);
                out.sizes[cell] += size;
                for (size_t c = 0; c < static_cast<size_t>(grid.channels); ++c) {
                    out.values[cell * static_cast<size_t>(grid.channels) + c] +=
                        size * grid.values[from * static_cast<size_t>(grid.channels) + c];
                }
                for (size_t p = 0; p < static_cast<size_t>(grid.planes); ++p) {
                    out.positions[cell * static_cast<size_t>(grid.planes) + p] +=
                        size * grid.positions[from * static_cast<size_t>(grid.planes) + p];
                }
            }
            for (size_t c = 0; c < static_cast<size_t>(grid.channels); ++c) {
                out.values[cell * static_cast<size_t>(grid.channels) + c] /= out.sizes[cell];
            }
            for (size_t p = 0; p < static_cast<size_t>(grid.planes); ++p) {
                out.positions[cell * static_cast<size_t>(grid.planes) + p] /= out.sizes[cell];
            }
        }
    }
    for (int64_t place : grid.merged_into) {
        out.merged_into.push_back(place / width * kept_width + moved[static_cast<size_t>(place)]);
    }
    return out;
}

inline NaiveGrid naive_transpose(const NaiveGrid& grid) {
    NaiveGrid out = grid;
    out.height = grid.width;
    out.width = grid.height;
    const auto height = static_cast<size_t>(grid.height);
    const auto width = static_cast<size_t>(grid.width);
    for (size_t row = 0; row < height; ++row) {
        for (size_t column = 0; column < width; ++column) {
            const size_t from = row * width + column;
            const size_t to = column * height + row;
            out.sizes[to] = grid.sizes[from];
            const auto channels = static_cast<size_t>(grid.channels);
            const auto planes = static_cast<size_t>(grid.planes);
            for (size_t c = 0; c < channels; ++c) out.values[to * channels + c] = grid.values[from * channels + c];
            for (size_t p = 0; p < planes; ++p) out.positions[to * planes + p] = grid.positions[from * planes + p];
        }
    }
    for (int64_t& place : out.merged_into) place = place % grid.width * grid.height + place / grid.width;
    return out;
}

inline NaiveGrid naive_merge(const NaiveGrid& grid, int64_t removed_columns, int64_t removed_rows) {
    const NaiveGrid rows = naive_merge_rows(grid, removed_columns);
    return naive_transpose(naive_merge_rows(naive_transpose(rows), removed_rows));
}

}  // namespace luvc::test
