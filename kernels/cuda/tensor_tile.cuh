// tensor_tile.cuh - one block's tile of a product on tensor cores, fed by a pipeline of copies to shared memory.
//
// A slab is 64 bytes of the inner dimension of all rows of both factors.  STAGES slabs are in shared memory: while one is used, the
// next ones are on their way, past the registers (cp.async), so that a warp waits for memory once per STAGES - 1 slabs, not for each.
// One barrier a slab: behind it the slab has arrived for everyone, and nobody reads the one before, which is filled next.
// Chunks of 16 bytes are swizzled: chunk c of row r lies where c ^ f(r) would, so that the rows that one ldmatrix reads, or one
// copy writes, are in different banks without a byte of padding.
#pragma once
#include "mma.cuh"

constexpr int SLAB = 64, DEPTH = SLAB / sizeof(T);              // bytes, and numbers, of the inner dimension

template <int M_, int N_, int WARPS_M_, int WARPS_N_, int STAGES_, int COPY_> struct Tile {
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

// The 16 rows from x0 on of step kk (32 bytes) of a slab, as the first factor; or 16 columns as the second.
template <int X, bool TRANSPOSED> __device__ __forceinline__ void fragment(unsigned (&r)[4], const unsigned char* factor, int x0, int kk, bool second) {
    const int lane = threadIdx.x & 31, low = lane & 7, bit3 = lane >> 3 & 1, bit4 = lane >> 4;
    if (!TRANSPOSED) {
        const int row = low + (second ? bit4 : bit3) * 8, chunk = kk * 2 + (second ? bit3 : bit4);
        load_matrix_x4(r, factor + place<X, false>(x0 + row, chunk * 16));
    } else if (sizeof(T) == 2) {                                // ldmatrix turns 8 x 8 numbers of 16 bits
        const int row = low + (second ? bit3 : bit4) * 8, column = x0 + (second ? bit4 : bit3) * 8;
        load_matrix_x4_transposed(r, factor + place<X, true>(kk * 16 + row, column * 2));
    } else {                                                    // and no others: four loads, 32 banks each
#pragma unroll
        for (int i = 0; i < 4; i++) {
#ifdef BUG_FRAGMENTS_OUT_OF_ORDER
            const int down = i & 1, right = i >> 1;
#else
            const int down = second ? i & 1 : i >> 1, right = second ? i >> 1 : i & 1;
#endif
            const int row = kk * 8 + (lane & 3) + down * 4, column = x0 + (lane >> 2) + right * 8;
            r[i] = *reinterpret_cast<const unsigned*>(factor + place<X, true>(row, column * 4));
        }
    }
    round_to_tensor(r);
}

// out[m][n] = sum over k of a(m, k) b(n, k) for a tile, k being `slabs` slabs long.  a and b copy their part of the next slab when
// they are asked to (`fetch`); store takes two neighbours of a row: (m, n, sum, sum of n + 1), relative to the tile.
template <class Shape, bool TRANSPOSED, class FactorA, class FactorB, class Store>
__device__ __forceinline__ void tensor_tile(unsigned char* shared, int slabs, FactorA& a, FactorB& b, Store store) {
    constexpr int M = Shape::M, N = Shape::N, STAGES = Shape::STAGES, WM = M / Shape::WARPS_M, WN = N / Shape::WARPS_N;
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const int wm = warp % Shape::WARPS_M * WM, wn = warp / Shape::WARPS_M * WN;
    float sums[WM / 16][WN / 8][4] = {};

    const auto fetch = [&](int slab) {
        if (slab < slabs) {
            unsigned char* stage = shared + slab % STAGES * Shape::STAGE_BYTES;
            a.fetch(stage);
            b.fetch(stage + M * SLAB);
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
        const unsigned char* left = shared + slab % STAGES * Shape::STAGE_BYTES;
        const unsigned char* right = left + M * SLAB;
#pragma unroll
        for (int kk = 0; kk < 2; kk++) {
            unsigned fa[WM / 16][4], fb[WN / 16][4];
#pragma unroll
            for (int i = 0; i < WM / 16; i++) fragment<M, TRANSPOSED>(fa[i], left, wm + i * 16, kk, false);
#pragma unroll
            for (int j = 0; j < WN / 16; j++) fragment<N, TRANSPOSED>(fb[j], right, wn + j * 16, kk, true);
#pragma unroll
            for (int i = 0; i < WM / 16; i++)
#pragma unroll
                for (int j = 0; j < WN / 8; j++) multiply(sums[i][j], fa[i], fb[j / 2][j % 2 * 2], fb[j / 2][j % 2 * 2 + 1], T());
        }
    }
#pragma unroll
    for (int i = 0; i < WM / 16; i++)
#pragma unroll
        for (int half = 0; half < 2; half++)
#pragma unroll
            for (int j = 0; j < WN / 8; j++)
                store(wm + i * 16 + half * 8 + lane / 4, wn + j * 8 + lane % 4 * 2, sums[i][j][half * 2], sums[i][j][half * 2 + 1]);
}
