// fma_tile.cuh - one block's tile of a product of float32, on the ordinary units: nothing is rounded to TF32.
//
// A thread has 8 x COLUMNS sums.  The lanes of a warp are 4 x 8 threads: one read of a factor gives 16 bytes to each of 8 lanes, from
// different banks, or the same 16 to all of them.
#pragma once
#include "pipeline.cuh"

__device__ __forceinline__ float4 four(const unsigned char* at) { return *reinterpret_cast<const float4*>(at); }

// As in tensor_tile.cuh; store(m, n, sum, sum of n + 1, how many of the two there are).
template <bool TRANSPOSED, class Shape, class FactorA, class FactorB, class Store>
__device__ __forceinline__ void tile_product(OnFmaUnits, unsigned char* shared, int slabs, FactorA& a, FactorB& b, Store store) {
    constexpr int M = Shape::M, N = Shape::N, ROWS = M / (Shape::WARPS_M * 4), COLUMNS = N / (Shape::WARPS_N * 8);
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const int tm = warp % Shape::WARPS_M * 4 + (lane >> 3), tn = warp / Shape::WARPS_M * 8 + (lane & 7);
    // Which row a thread's i-th is: straight, every (M/ROWS)-th; transposed, fours of neighbours, which are read at once.
    const auto row = [&](int i) { return TRANSPOSED ? tm * 4 + i % 4 + i / 4 * (4 * M / ROWS) : tm + i * (M / ROWS); };
    const auto column = [&](int j) { return TRANSPOSED ? tn * 4 + j % 4 + j / 4 * (4 * N / COLUMNS) : tn + j * (N / COLUMNS); };
    float sums[ROWS][COLUMNS] = {};
    through_slabs<Shape>(shared, slabs, a, b, [&](const unsigned char* left, const unsigned char* right) {
        if (TRANSPOSED) {
#pragma unroll
            for (int k = 0; k < DEPTH; k++) {
                float u[ROWS], v[COLUMNS];
#pragma unroll
                for (int i = 0; i < ROWS; i += 4) *reinterpret_cast<float4*>(&u[i]) = four(left + place<M, true>(k, row(i) * 4));
#pragma unroll
                for (int j = 0; j < COLUMNS; j += 4) *reinterpret_cast<float4*>(&v[j]) = four(right + place<N, true>(k, column(j) * 4));
#pragma unroll
                for (int i = 0; i < ROWS; i++)
#pragma unroll
                    for (int j = 0; j < COLUMNS; j++) sums[i][j] += u[i] * v[j];
            }
        } else {
#pragma unroll 1                                                // unrolled, all loads would come first, and not fit the registers
            for (int chunk = 0; chunk < SLAB; chunk += 16) {
                float4 u[ROWS];
#pragma unroll
                for (int i = 0; i < ROWS; i++) u[i] = four(left + place<M, false>(row(i), chunk));
#pragma unroll
                for (int j = 0; j < COLUMNS; j++) {
                    const float4 v = four(right + place<N, false>(column(j), chunk));
#pragma unroll
                    for (int i = 0; i < ROWS; i++) {
                        sums[i][j] += u[i].x * v.x;
                        sums[i][j] += u[i].y * v.y;
                        sums[i][j] += u[i].z * v.z;
                        sums[i][j] += u[i].w * v.w;
                    }
                }
            }
        }
    });
#pragma unroll
    for (int i = 0; i < ROWS; i++)
#pragma unroll
        for (int j = 0; j < COLUMNS; j += TRANSPOSED ? 2 : 1)
            store(row(i), column(j), sums[i][j], TRANSPOSED ? sums[i][j + 1] : 0.f, TRANSPOSED ? 2 : 1);
}
