#include "cuda/gather.cuh"

#include <algorithm>

#include "cuda/number.cuh"

namespace luvc::cuda {
namespace {

constexpr int kThreads = 256;
constexpr unsigned kMaxBlocks = 1u << 16;  // of a plane; the copy loops past that
constexpr int kMaxItems = LUVC_MAX_PAYLOADS + 1;

struct Item {
    const char* source;
    char* target;
    int first_plane;     // of this item, counted over all items
    int chunks_per_row;  // a row is this many loads of chunk_bytes
    int chunk_bytes;
};

struct Items {
    Item item[kMaxItems];
    int count;
};

template <typename Chunk, typename Index>
__device__ void copy_rows(const Item& item, int64_t block, const Index* kept, int tokens, int keep) {
    const auto* source = reinterpret_cast<const Chunk*>(item.source) + block * tokens * item.chunks_per_row;
    auto* target = reinterpret_cast<Chunk*>(item.target) + block * keep * item.chunks_per_row;
    // At most 2^31 chunks a plane, so the division is a 32-bit one.
    const auto per_row = static_cast<unsigned>(item.chunks_per_row);
    const unsigned total = static_cast<unsigned>(keep) * per_row;
    for (unsigned i = blockIdx.x * kThreads + threadIdx.x; i < total; i += gridDim.x * kThreads) {
        const unsigned row = i / per_row;
        target[i] = source[static_cast<int64_t>(kept[row]) * per_row + (i - row * per_row)];
    }
}

// Grid: x over the chunks of a plane, y over the planes of all items, z over the groups.
template <typename Index>
__global__ void __launch_bounds__(kThreads) gather_kernel(Items items, const Index* indices, int tokens, int keep) {
    const int plane = static_cast<int>(blockIdx.y);
    int chosen = 0;
    while (chosen + 1 < items.count && items.item[chosen + 1].first_plane <= plane) ++chosen;
    const Item& item = items.item[chosen];
    const int64_t block = int64_t{plane - item.first_plane} * gridDim.z + blockIdx.z;
    const Index* kept = indices + int64_t{blockIdx.z} * keep;
    switch (item.chunk_bytes) {
        case 16: copy_rows<uint4>(item, block, kept, tokens, keep); break;
        case 8: copy_rows<uint2>(item, block, kept, tokens, keep); break;
        case 4: copy_rows<uint32_t>(item, block, kept, tokens, keep); break;
        case 2: copy_rows<uint16_t>(item, block, kept, tokens, keep); break;
        default: copy_rows<uint8_t>(item, block, kept, tokens, keep); break;
    }
}

int widest_chunk(const luvc_payload& payload) {
    int64_t bytes = kWideBytes;
    while (payload.row_bytes % bytes != 0 || !aligned(payload.source, bytes) || !aligned(payload.target, bytes)) {
        bytes /= 2;
    }
    return static_cast<int>(bytes);
}

}  // namespace

void gather(Chain& chain, const luvc_spectrum_prune_shape& shape, const luvc_payload* payloads, int count,
    const void* indices) noexcept {
    Items items{};
    int planes = 0;
    int64_t chunks = 0;
    for (int i = 0; i < count; ++i) {
        const int chunk = widest_chunk(payloads[i]);
        const auto per_row = static_cast<int>(payloads[i].row_bytes / chunk);
        items.item[i] = {static_cast<const char*>(payloads[i].source), static_cast<char*>(payloads[i].target), planes,
            per_row, chunk};
        planes += static_cast<int>(payloads[i].planes);
        chunks = std::max(chunks, shape.keep * per_row);
    }
    items.count = count;
    const dim3 grid(std::min(blocks_for(chunks, kThreads), kMaxBlocks), static_cast<unsigned>(planes),
        static_cast<unsigned>(shape.groups));
    if (shape.index_dtype == LUVC_INT32) {
        const auto* kept = static_cast<const int32_t*>(indices);
        chain.launch(gather_kernel<int32_t>, grid, kThreads, items, kept, shape.tokens, shape.keep);
    } else {
        const auto* kept = static_cast<const int64_t*>(indices);
        chain.launch(gather_kernel<int64_t>, grid, kThreads, items, kept, shape.tokens, shape.keep);
    }
}

}  // namespace luvc::cuda
