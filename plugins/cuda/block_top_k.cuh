// Radix selection of the best `keep` keys by one thread block, and their compaction in index order.
#pragma once

#include <cub/block/block_scan.cuh>

#include <cstdint>

namespace luvc::cuda {

// Keys above `threshold` are selected, and the first `ties` of those equal to it.
struct Cut {
    uint32_t threshold;
    int ties;
};

template <int Threads>
class BlockTopK {
    static constexpr int kDigitBits = 8;
    static constexpr int kDigits = 1 << kDigitBits;
    static constexpr int kItems = 4;
    static_assert(Threads >= kDigits, "one thread for each digit");

    // Two counts that add as one number, so that a single scan serves both.
    using Counts = unsigned long long;
    using DigitScan = cub::BlockScan<int, Threads, cub::BLOCK_SCAN_WARP_SCANS>;
    using CountScan = cub::BlockScan<Counts, Threads, cub::BLOCK_SCAN_WARP_SCANS>;

public:
    struct Storage {
        union {
            typename DigitScan::TempStorage digits;
            typename CountScan::TempStorage counts;
        } scan;
        int histogram[kDigits];
        uint32_t digit;
        int wanted;
    };

    __device__ explicit BlockTopK(Storage& storage) : storage_(storage) {}

    // Four passes over the keys, most significant digit first. 1 <= keep <= count.
    template <typename KeyAt>
    __device__ Cut find(KeyAt key_at, int count, int keep) {
        const int thread = static_cast<int>(threadIdx.x);
        Cut cut{0, keep};
        uint32_t known = 0;
        for (int shift = 32 - kDigitBits; shift >= 0; shift -= kDigitBits) {
            if (thread < kDigits) storage_.histogram[thread] = 0;
            __syncthreads();
            for (int i = thread; i < count; i += Threads) {
                const uint32_t key = key_at(i);
                if ((key & known) == cut.threshold) atomicAdd(&storage_.histogram[key >> shift & (kDigits - 1)], 1);
            }
            __syncthreads();
            const int digit = kDigits - 1 - thread;
            const int here = digit >= 0 ? storage_.histogram[digit] : 0;
            int better;
            DigitScan(storage_.scan.digits).ExclusiveSum(here, better);
            if (better < cut.ties && cut.ties <= better + here) {
                storage_.digit = static_cast<uint32_t>(digit);
                storage_.wanted = cut.ties - better;
            }
            __syncthreads();
            cut.threshold |= storage_.digit << shift;
            cut.ties = storage_.wanted;
            known |= static_cast<uint32_t>(kDigits - 1) << shift;
        }
        return cut;
    }

    // Calls emit(i, selected, selected_before) once for every i in [0, count).
    template <typename KeyAt, typename Emit>
    __device__ void visit(KeyAt key_at, int count, Cut cut, Emit emit) {
        constexpr int kChunk = Threads * kItems;
        Counts seen = 0;
        for (int base = 0; base < count; base += kChunk) {
            const int first = base + static_cast<int>(threadIdx.x) * kItems;
            Counts flags[kItems];
            Counts before[kItems];
            for (int item = 0; item < kItems; ++item) {
                const bool inside = first + item < count;
                const uint32_t key = inside ? key_at(first + item) : 0;
                flags[item] = inside ? (key > cut.threshold ? kAbove : key == cut.threshold ? kTie : 0) : 0;
            }
            Counts chunk;
            CountScan(storage_.scan.counts).ExclusiveSum(flags, before, chunk);
            for (int item = 0; item < kItems && first + item < count; ++item) {
                const Counts total = seen + before[item];
                const int ties = static_cast<int>(total & (kAbove - 1));
                const bool selected = flags[item] == kAbove || (flags[item] == kTie && ties < cut.ties);
                emit(first + item, selected, static_cast<int>(total >> kAboveShift) + min(ties, cut.ties));
            }
            seen += chunk;
            __syncthreads();
        }
    }

private:
    static constexpr int kAboveShift = 32;
    static constexpr Counts kTie = 1;
    static constexpr Counts kAbove = Counts{1} << kAboveShift;

    Storage& storage_;
};

}  // namespace luvc::cuda
