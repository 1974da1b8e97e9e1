// tensor_tile.cuh - one block's tile of a product, on tensor cores.
#pragma once
#include "pipeline.cuh"

// The 16 rows from x0 on of step kk (32 bytes) of a slab, as the first factor; or 16 columns as the second.
template <int X, bool TRANSPOSED> __device__ __forceinline__ void fragment(unsigned (&r)[4], const unsigned char* factor, int x0, int kk,
        bool second) {
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

// out[m][n] = sum over k of a(m, k) b(n, k) for a tile, k being `slabs` slabs long; store(m, n, sum, sum of n + 1, 2), relative to the tile.
template <bool TRANSPOSED, class Shape, class FactorA, class FactorB, class Store>
__device__ __forceinline__ void tile_product(OnTensorCores, unsigned char* shared, int slabs, FactorA& a, FactorB& b, Store store) {
    constexpr int M = Shape::M, N = Shape::N, WM = M / Shape::WARPS_M, WN = N / Shape::WARPS_N;
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const int wm = warp % Shape::WARPS_M * WM, wn = warp / Shape::WARPS_M * WN;
    float sums[WM / 16][WN / 8][4] = {};
    through_slabs<Shape>(shared, slabs, a, b, [&](const unsigned char* left, const unsigned char* right) {
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
    });
#pragma unroll
    for (int i = 0; i < WM / 16; i++)
#pragma unroll
        for (int half = 0; half < 2; half++)
#pragma unroll
            for (int j = 0; j < WN / 8; j++)
                store(wm + i * 16 + half * 8 + lane / 4, wn + j * 8 + lane % 4 * 2, sums[i][j][half * 2], sums[i][j][half * 2 + 1], 2);
}
