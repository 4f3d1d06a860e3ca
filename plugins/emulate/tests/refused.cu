// CUDA that the emulation does not have; each part must fail to compile (CMakeLists.txt).
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <mma.h>
#ifdef TRY_block_reduce
#include <cub/block/block_reduce.cuh>
#endif

__global__ void kernel(int* data) {
#ifdef TRY_ballot
    data[0] = __ballot_sync(0xffffffffu, data[1]);
#endif
#ifdef TRY_dynamic_shared
    extern __shared__ int more[];
#endif
#ifdef TRY_half_fragment
    nvcuda::wmma::fragment<nvcuda::wmma::matrix_a, 16, 16, 16, __half, nvcuda::wmma::row_major> left;
#endif
#ifdef TRY_shuffle_down
    data[0] = __shfl_down_sync(0xffffffffu, data[1], 1);
#endif
#ifdef TRY_atomic_max
    atomicMax(data, 1);
#endif
}
