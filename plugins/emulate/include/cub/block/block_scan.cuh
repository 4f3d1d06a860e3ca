// The two sums of cub::BlockScan that plugins/cuda uses, with the memory traffic and the one barrier of WARP_SCANS:
// storage may be used again only after another barrier.
#pragma once

#include "emulate/machine.h"

namespace cub {

enum BlockScanAlgorithm { BLOCK_SCAN_WARP_SCANS };

template <typename T, int Threads, BlockScanAlgorithm>
class BlockScan {
    static constexpr int kWarps = Threads / luvc::emulate::kWarp;
    static_assert(Threads % luvc::emulate::kWarp == 0, "whole warps");

public:
    struct TempStorage {
        T warp_totals[kWarps];
    };

    explicit BlockScan(TempStorage& storage) : storage_(storage) {}

    void ExclusiveSum(T input, T& output, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
        T total;
        sum(input, output, total, {file, line});
    }

    template <int Items>
    void ExclusiveSum(T (&input)[Items], T (&output)[Items], T& total, const char* file = __builtin_FILE(),
        int line = __builtin_LINE()) {
        T own = 0;
        for (T item : input) own += item;
        T before;
        sum(own, before, total, {file, line});
        for (int i = 0; i < Items; ++i) {
            const T item = input[i];
            output[i] = before;
            before += item;
        }
    }

private:
    void sum(T own, T& before, T& total, luvc::emulate::Site site) {
        const int thread = static_cast<int>(luvc::emulate::places.thread.x);
        const int lane = thread % luvc::emulate::kWarp;
        const int warp = thread / luvc::emulate::kWarp;
        T inclusive = own;
        for (int offset = 1; offset < luvc::emulate::kWarp; offset *= 2) {
            const int from = lane >= offset ? lane - offset : lane;
            const auto other = static_cast<T>(luvc::emulate::shuffle(
                "cub::BlockScan", 0xffffffffu, static_cast<unsigned long long>(inclusive), from, site));
            if (lane >= offset) inclusive += other;
        }
        if (lane == luvc::emulate::kWarp - 1) storage_.warp_totals[warp] = inclusive;
        luvc::emulate::barrier(site);
        before = inclusive - own;
        total = 0;
        for (int i = 0; i < kWarps; ++i) {
            const T other = storage_.warp_totals[i];
            if (i < warp) before += other;
            total += other;
        }
    }

    TempStorage& storage_;
};

}  // namespace cub
