// conv_mma.cu - convolution and its gradients on tensor cores: 16-bit maps, channels last, sums in float32.  sm_80 and later.
//
//   x (N, H, W, C)   w (O, kh, kw, C/groups)   y (N, oh, ow, O); channels of a group are a multiple of 8, arrays begin at 16 bytes
//
//   tensor  implicit GEMM as in conv.cu, with three differences.  A warp multiplies 16 x 16 by 16 x 8 in one instruction.  The factors go
//           to shared memory by cp.async, 16 bytes a thread, past the registers, and the next 32 of the inner dimension are on their way
//           while these are used (two buffers).  ldmatrix hands a warp its fragments; rows are 16 bytes longer than they need be, so
//           that its eight rows lie in different banks.
//           The weight gradient adds over pixels, which are the rows of both factors: they are transposed by ldmatrix on the way.
#include "mma.cuh"

constexpr int TILE = 64, DEPTH = 32, PAD = 8, THREADS = 128;    // a block's outputs are TILE x TILE, by 2 x 2 warps of 32 x 32
constexpr int VECTOR = 8;                                       // elements of a 16-byte copy

__device__ __forceinline__ void multiply(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, __half) { mma_f16(d, a, b0, b1); }
__device__ __forceinline__ void multiply(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, __nv_bfloat16) { mma_bf16(d, a, b0, b1); }

// A copy to make: from where, or from nowhere (zeros).
struct Source { const T* at; bool inside; };

// out[m][n] += sum over k of a[m][k] b[n][k].  a(row, k) and b(row, k) say where 8 neighbouring values are: neighbours in k, or, where
// TRANSPOSED, in the row index: a(k, m) and b(k, n).
template <bool TRANSPOSED, class FindA, class FindB, class Store>
__device__ __forceinline__ void tensor_tile(int m0, int n0, Index k0, Index k1, FindA a, FindB b, Store store) {
    constexpr int ROWS = TRANSPOSED ? DEPTH : TILE, COLUMNS = (TRANSPOSED ? TILE : DEPTH) + PAD;
    constexpr int PER_ROW = (TRANSPOSED ? TILE : DEPTH) / VECTOR;
    __shared__ __align__(16) T shared[2][2][ROWS * COLUMNS];    // buffer, factor
    const int thread = threadIdx.x, lane = thread & 31, warp = thread >> 5, wm = (warp & 1) * 32, wn = (warp >> 1) * 32;
    float sums[2][4][4] = {};                                   // 2 x 4 products of 16 x 8 a warp

    const auto fetch = [&](int buffer, Index k) {
        for (int i = thread; i < ROWS * PER_ROW; i += THREADS) {
            const int row = i / PER_ROW, column = i % PER_ROW * VECTOR;
            const Source left = TRANSPOSED ? a(k + row, m0 + column) : a(m0 + row, k + column);
            const Source right = TRANSPOSED ? b(k + row, n0 + column) : b(n0 + row, k + column);
            copy_async_16(&shared[buffer][0][row * COLUMNS + column], left.at, left.inside ? 16 : 0);
            copy_async_16(&shared[buffer][1][row * COLUMNS + column], right.at, right.inside ? 16 : 0);
        }
        copy_async_commit();
    };

    int buffer = 0;
    fetch(0, k0);
    for (Index k = k0; k < k1; k += DEPTH, buffer ^= 1) {
        if (k + DEPTH < k1) { fetch(buffer ^ 1, k + DEPTH); copy_async_wait<1>(); } else copy_async_wait<0>();
#ifndef BUG_NO_BARRIER_AFTER_COPY
        __syncthreads();
#endif
        const T *left = shared[buffer][0], *right = shared[buffer][1];
#pragma unroll
        for (int kk = 0; kk < DEPTH; kk += 16) {
            unsigned fa[2][4], fb[2][4];
#pragma unroll
            for (int i = 0; i < 2; i++)
                if (TRANSPOSED) {
                    load_matrix_x4_transposed(fa[i], &left[(kk + (lane & 7) + (lane >> 4) * 8) * COLUMNS + wm + i * 16 + (lane >> 3 & 1) * 8]);
                    load_matrix_x4_transposed(fb[i], &right[(kk + (lane & 15)) * COLUMNS + wn + i * 16 + (lane >> 4) * 8]);
                } else {
                    load_matrix_x4(fa[i], &left[(wm + i * 16 + (lane & 15)) * COLUMNS + kk + (lane >> 4) * 8]);
                    load_matrix_x4(fb[i], &right[(wn + i * 16 + (lane & 7) + (lane >> 4) * 8) * COLUMNS + kk + (lane >> 3 & 1) * 8]);
                }
#pragma unroll
            for (int i = 0; i < 2; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) multiply(sums[i][j], fa[i], fb[j / 2][j % 2 * 2], fb[j / 2][j % 2 * 2 + 1], T());
        }
        __syncthreads();                                        // before the buffer is filled again
    }
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                store(m0 + wm + i * 16 + lane / 4 + e / 2 * 8, n0 + wn + j * 8 + lane % 4 * 2 + e % 2, sums[i][j][e]);
}

// Grid: (tiles of pixels, tiles of a group's filters, groups).
extern "C" __global__ void __launch_bounds__(128, 2) conv_tensor(const T* __restrict__ x, const T* __restrict__ w, const T* __restrict__ b,
        T* __restrict__ y, int pixels, int C, int H, int W, int O, int kh, int kw, int sh, int sw, int top, int left, int dh, int dw, int groups,
        int oh, int ow, int relu) {
    const int Cg = C / groups, Og = O / groups, group = blockIdx.z, K = kh * kw * Cg;
    tensor_tile<false>(blockIdx.x * TILE, blockIdx.y * TILE, 0, K,
        [&](int p, Index k) -> Source {
            if (p >= pixels || k >= K) return {x, false};
            const int c = k % Cg, v = k / Cg % kw, u = k / (Cg * kw);
            const int h = p / ow % oh * sh - top + u * dh, column = p % ow * sw - left + v * dw;
            if ((unsigned)h >= (unsigned)H || (unsigned)column >= (unsigned)W) return {x, false};
            return {x + (((Index)(p / (oh * ow)) * H + h) * W + column) * C + group * Cg + c, true};
        },
        [&](int o, Index k) -> Source {
            const bool inside = o < Og && k < K;
            return {inside ? w + ((Index)group * Og + o) * K + k : w, inside};
        },
        [&](int p, int o, float sum) {
            if (p >= pixels || o >= Og) return;
            if (b) sum += float(b[group * Og + o]);
            y[(Index)p * O + group * Og + o] = T(relu && sum < 0.f ? 0.f : sum);
        });
}

// w as (groups, C/groups, kh, kw, O/groups).
extern "C" __global__ void __launch_bounds__(128, 2) conv_input_grad_tensor(const T* __restrict__ gy, const T* __restrict__ w,
        T* __restrict__ gx, int pixels, int C, int H, int W, int O, int kh, int kw, int sh, int sw, int top, int left, int dh, int dw, int groups,
        int oh, int ow) {
    const int Cg = C / groups, Og = O / groups, group = blockIdx.z, K = kh * kw * Og;
    tensor_tile<false>(blockIdx.x * TILE, blockIdx.y * TILE, 0, K,
        [&](int p, Index k) -> Source {
            if (p >= pixels || k >= K) return {gy, false};
            const int o = k % Og, v = k / Og % kw, u = k / (Og * kw);
            const int rows = p / W % H + top - u * dh, columns = p % W + left - v * dw, r = rows / sh, j = columns / sw;
            if (rows < 0 || columns < 0 || rows % sh || columns % sw || r >= oh || j >= ow) return {gy, false};
            return {gy + (((Index)(p / (H * W)) * oh + r) * ow + j) * O + group * Og + o, true};
        },
        [&](int c, Index k) -> Source {
            const bool inside = c < Cg && k < K;
            return {inside ? w + ((Index)group * Cg + c) * K + k : w, inside};
        },
        [&](int p, int c, float sum) { if (p < pixels && c < Cg) gx[(Index)p * C + group * Cg + c] = T(sum); });
}

// Grid: (tiles of filters, tiles of taps and channels, groups * parts); partial (parts, O, kh, kw, C/groups) is added up by add_parts.
extern "C" __global__ void __launch_bounds__(128, 2) conv_weight_grad_tensor(const T* __restrict__ gy, const T* __restrict__ x,
        float* __restrict__ partial, Index pixels, Index pixels_per_part, int C, int H, int W, int O, int kh, int kw, int sh, int sw, int top,
        int left, int dh, int dw, int groups, int oh, int ow) {
    const int Cg = C / groups, Og = O / groups, group = blockIdx.z % groups, part = blockIdx.z / groups, K = kh * kw * Cg;
    const Index begin = part * pixels_per_part, end = begin + pixels_per_part < pixels ? begin + pixels_per_part : pixels;
    float* out = partial + (Index)part * O * K;
    tensor_tile<true>(blockIdx.x * TILE, blockIdx.y * TILE, begin, end,
        [&](Index p, int o) -> Source {
            const bool inside = p < end && o < Og;
            return {inside ? gy + p * O + group * Og + o : gy, inside};
        },
        [&](Index p, int k) -> Source {
            if (p >= end || k >= K) return {x, false};
            const int c = k % Cg, v = k / Cg % kw, u = k / (Cg * kw);
            const int h = p / ow % oh * sh - top + u * dh, column = p % ow * sw - left + v * dw;
            if ((unsigned)h >= (unsigned)H || (unsigned)column >= (unsigned)W) return {x, false};
            return {x + ((p / (oh * ow) * H + h) * W + column) * C + group * Cg + c, true};
        },
        [&](int o, int k, float sum) { if (o < Og && k < K) out[((Index)group * Og + o) * K + k] = sum; });
}
