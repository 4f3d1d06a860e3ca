// One axis of a unit grid as a set of independent lines: the same code then walks rows and columns.
#pragma once

#include <cstdint>

#include "common/rank_key.h"

namespace luvc {

// Unit (line, place) of image b lies at b * batch_stride + line * line_stride + place * place_stride.
struct Axis {
    int64_t batch;
    int64_t lines;
    int64_t length;
    int64_t batch_stride;
    int64_t line_stride;
    int64_t place_stride;

    LUVC_HOST_DEVICE int64_t unit(int64_t image, int64_t line, int64_t place) const {
        return image * batch_stride + line * line_stride + place * place_stride;
    }
    LUVC_HOST_DEVICE int64_t units() const { return batch * lines * length; }
};

inline Axis along_rows(int64_t batch, int64_t height, int64_t width) {
    return {batch, height, width, height * width, width, 1};
}

inline Axis along_columns(int64_t batch, int64_t height, int64_t width) {
    return {batch, width, height, height * width, 1, width};
}

}  // namespace luvc
