// pipeline.cuh - how both factors of a product come to shared memory: slab by slab, several on their way at a time.
//
// A slab is 64 bytes of the inner dimension of all rows of both factors.  STAGES slabs are in shared memory: while one is used, the
// next ones are on their way, past the registers (cp.async), so that a warp waits for memory once per STAGES - 1 slabs, not for each.
// One barrier a slab: behind it the slab has arrived for everyone, and nobody reads the one before, which is filled next.
// Chunks of 16 bytes are swizzled: chunk c of row r lies where c ^ f(r) would, so that the eight rows that are read at once, or written
// by one copy, are in different banks without a byte of padding.
#pragma once
#include "mma.cuh"

constexpr int SLAB = 64, DEPTH = SLAB / sizeof(T);              // bytes, and numbers, of the inner dimension

// What a tile is multiplied with: see tensor_tile.cuh and fma_tile.cuh.
struct OnTensorCores {};
struct OnFmaUnits {};

template <class Units_, int M_, int N_, int WARPS_M_, int WARPS_N_, int STAGES_, int COPY_> struct Tile {
    typedef Units_ Units;
    static constexpr int M = M_, N = N_, WARPS_M = WARPS_M_, WARPS_N = WARPS_N_, STAGES = STAGES_;
    static constexpr int COPY = COPY_, VECTOR = COPY / sizeof(T);             // bytes and numbers of one asynchronous copy
    static constexpr int THREADS = 32 * WARPS_M * WARPS_N;
    static constexpr int STAGE_BYTES = (M + N) * SLAB, BYTES = STAGES * STAGE_BYTES;
};

// A factor of X rows in shared memory.  Straight: a row is a slab.  TRANSPOSED: the slab's DEPTH rows are X numbers long.
template <int X, bool TRANSPOSED> __device__ __forceinline__ int place(int row, int byte) {
    const int turn = !TRANSPOSED ? row >> 1 & 3 : sizeof(T) == 2 ? row & 7 : (row & 3) * 2;
    return row * (TRANSPOSED ? X * (int)sizeof(T) : SLAB) + (((byte >> 4) ^ turn) << 4 | (byte & 15));
}

// The copies of a slab that are this thread's: one column, the rows row, row + STEP, ...
template <class Shape, int X, bool TRANSPOSED> struct Share {
    static constexpr int PER_ROW = (TRANSPOSED ? X * (int)sizeof(T) : SLAB) / Shape::COPY, STEP = Shape::THREADS / PER_ROW;
    static constexpr int ROWS = X * SLAB / Shape::COPY / Shape::THREADS;
    static_assert(ROWS >= 1 && Shape::THREADS % PER_ROW == 0, "every thread copies as much");
    __device__ __forceinline__ static int column() { return threadIdx.x % PER_ROW * Shape::VECTOR; }
    __device__ __forceinline__ static int row(int i) { return threadIdx.x / PER_ROW + i * STEP; }
    __device__ __forceinline__ static void copy(unsigned char* factor, int i, const T* from, bool inside) {
        copy_async<Shape::COPY>(factor + place<X, TRANSPOSED>(row(i), column() * (int)sizeof(T)), from, inside ? Shape::COPY : 0);
    }
};

// Calls use(first factor, second factor) for each of `slabs` slabs; a and b copy their part of the next one when they are asked to.
template <class Shape, class FactorA, class FactorB, class Use>
__device__ __forceinline__ void through_slabs(unsigned char* shared, int slabs, FactorA& a, FactorB& b, Use use) {
    constexpr int STAGES = Shape::STAGES;
    const auto fetch = [&](int slab) {
        if (slab < slabs) {
            unsigned char* stage = shared + slab % STAGES * Shape::STAGE_BYTES;
            a.fetch(stage);
            b.fetch(stage + Shape::M * SLAB);
        }
        copy_async_commit();                                    // also when there is nothing: groups are counted
    };
    for (int slab = 0; slab < STAGES - 1; slab++) fetch(slab);
    for (int slab = 0; slab < slabs; slab++) {
#ifdef BUG_WAIT_FOR_ONE_TOO_FEW
        copy_async_wait<STAGES - 1>();
#else
        copy_async_wait<STAGES - 2>();
#endif
#ifndef BUG_NO_BARRIER_AFTER_COPY
        __syncthreads();
#endif
        fetch(slab + STAGES - 1);
        const unsigned char* stage = shared + slab % STAGES * Shape::STAGE_BYTES;
        use(stage, stage + Shape::M * SLAB);
    }
}
