// conv.cu - convolution of channels-last maps, its input gradient and its weight gradient, with strides, padding, dilation, groups.
//
//   x (N, H, W, C)   w (O, kh, kw, C/groups)   y (N, oh, ow, O); for the input gradient w as (groups, C/groups, kh, kw, O/groups)
//
//   naive   a thread an output, which adds up its own products: every x is read kh*kw*O times, from the cache if one is lucky
//   cuda    implicit GEMM: the matrix of windows is never written.  A block computes 64 x 64 outputs; 16 products at a time, both factors
//           are brought to shared memory, where each is used 64 times; a thread keeps 4 x 4 sums in registers, 16 products for 8 loads.
//           The weight gradient adds over all pixels: they are cut into parts (split-K), each with sums of its own, which
//           layout.cu adds in a fixed order.  No atomics: the same bits every time.
#include "windows.cuh"

constexpr int TILE_M = 64, TILE_N = 64, TILE_K = 16;            // of a block of 256 threads

// ---- naive -----------------------------------------------------------------------------------------------------------

extern "C" __global__ void conv_naive(const T* __restrict__ x, const T* __restrict__ w, const T* __restrict__ b, T* __restrict__ y, Index n,
        int C, int H, int W, int O, int kh, int kw, int sh, int sw, int top, int left, int dh, int dw, int groups, int oh, int ow, int relu) {
    GEOMETRY
    GRID_STRIDE(i, n) {
        const int o = i % O, j = i / O % ow, r = i / ((Index)O * ow) % oh;
        const Index image = i / ((Index)O * ow * oh);
        const T* filter = w + (Index)o * kh * kw * Cg;
        A sum = b ? A(b[o]) : A(0);
        for (int u = 0; u < kh; u++)
            for (int v = 0; v < kw; v++) {
                const Index at = input_at(g, image, r, j, u, v);
                if (at < 0) continue;
                for (int c = 0; c < Cg; c++) sum += A(x[at + o / Og * Cg + c]) * A(filter[(u * kw + v) * Cg + c]);
            }
        y[i] = T(relu && sum < A(0) ? A(0) : sum);
    }
}

extern "C" __global__ void conv_input_grad_naive(const T* __restrict__ gy, const T* __restrict__ w, T* __restrict__ gx, Index n, int C, int H,
        int W, int O, int kh, int kw, int sh, int sw, int top, int left, int dh, int dw, int groups, int oh, int ow) {
    GEOMETRY
    GRID_STRIDE(i, n) {
        const int c = i % C, column = i / C % W, row = i / ((Index)C * W) % H, group = c / Cg;
        const Index image = i / ((Index)C * W * H);
        A sum = 0;
        for (int u = 0; u < kh; u++)
            for (int v = 0; v < kw; v++) {
                const Index at = output_at(g, image, row, column, u, v);
                if (at < 0) continue;
                const T* filter = w + (((Index)c * kh + u) * kw + v) * Og;
                for (int o = 0; o < Og; o++) sum += A(gy[at + group * Og + o]) * A(filter[o]);
            }
        gx[i] = T(sum);
    }
}

extern "C" __global__ void conv_weight_grad_naive(const T* __restrict__ gy, const T* __restrict__ x, A* __restrict__ gw, Index n, Index pixels,
        int C, int H, int W, int O, int kh, int kw, int sh, int sw, int top, int left, int dh, int dw, int groups, int oh, int ow) {
    GEOMETRY
    GRID_STRIDE(i, n) {
        const int c = i % Cg, v = i / Cg % kw, u = i / ((Index)Cg * kw) % kh, o = i / ((Index)Cg * kw * kh);
        A sum = 0;
        for (Index p = 0; p < pixels; p++) {
            const Index at = input_at(g, p / (oh * ow), p / ow % oh, p % ow, u, v);
            if (at >= 0) sum += A(gy[p * O + o]) * A(x[at + o / Og * Cg + c]);
        }
        gw[i] = sum;
    }
}

// ---- implicit GEMM -----------------------------------------------------------------------------------------------------

// One tile of out[m][n] = sum over k in [k0, k1) of a(m, k) * b(k, n); a and b give 0 outside their matrices.
template <class LoadA, class LoadB, class Store>
__device__ __forceinline__ void tile_product(int m0, int n0, Index k0, Index k1, LoadA a, LoadB b, Store store) {
    __shared__ A left[TILE_K][TILE_M + 4];                      // + 4: a row starts in another bank, and stays a multiple of 16 bytes
    __shared__ A right[TILE_K][TILE_N + 4];
    const int thread = threadIdx.x, m_of_thread = thread / 16 * 4, n_of_thread = thread % 16 * 4;
    A sums[4][4] = {};
    for (Index k = k0; k < k1; k += TILE_K) {
        for (int i = thread; i < TILE_K * TILE_M; i += 256) left[i % TILE_K][i / TILE_K] = a(m0 + i / TILE_K, k + i % TILE_K);
        for (int i = thread; i < TILE_K * TILE_N; i += 256) right[i / TILE_N][i % TILE_N] = b(k + i / TILE_N, n0 + i % TILE_N);
        __syncthreads();
#pragma unroll
        for (int kk = 0; kk < TILE_K; kk++) {
            A u[4], v[4];
#pragma unroll
            for (int e = 0; e < 4; e++) { u[e] = left[kk][m_of_thread + e]; v[e] = right[kk][n_of_thread + e]; }
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) sums[i][j] += u[i] * v[j];
        }
#ifndef BUG_NO_BARRIER_BEFORE_NEXT_TILE
        __syncthreads();
#endif
    }
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++) store(m0 + m_of_thread + i, n0 + n_of_thread + j, sums[i][j]);
}

// Grid: (tiles of pixels, tiles of a group's filters, groups).
extern "C" __global__ void __launch_bounds__(256, 2) conv(const T* __restrict__ x, const T* __restrict__ w, const T* __restrict__ b,
        T* __restrict__ y, int pixels, int C, int H, int W, int O, int kh, int kw, int sh, int sw, int top, int left, int dh, int dw, int groups,
        int oh, int ow, int relu) {
    GEOMETRY
    const int group = blockIdx.z, K = kh * kw * Cg;
    tile_product(blockIdx.x * TILE_M, blockIdx.y * TILE_N, 0, K,
        [&](int p, Index k) {
            if (p >= pixels || k >= K) return A(0);
            const int c = k % Cg, v = k / Cg % kw, u = k / (Cg * kw);
            const Index at = input_at(g, p / (oh * ow), p / ow % oh, p % ow, u, v);
            return at < 0 ? A(0) : A(x[at + group * Cg + c]);
        },
        [&](Index k, int o) { return o < Og && k < K ? A(w[((Index)group * Og + o) * K + k]) : A(0); },
        [&](int p, int o, A sum) {
#ifdef BUG_STORE_PAST_THE_END
            if (p > pixels || o >= Og) return;
#else
            if (p >= pixels || o >= Og) return;
#endif
            if (b) sum += A(b[group * Og + o]);
            y[(Index)p * O + group * Og + o] = T(relu && sum < A(0) ? A(0) : sum);
        });
}

extern "C" __global__ void __launch_bounds__(256, 2) conv_input_grad(const T* __restrict__ gy, const T* __restrict__ w, T* __restrict__ gx,
        int pixels, int C, int H, int W, int O, int kh, int kw, int sh, int sw, int top, int left, int dh, int dw, int groups, int oh, int ow) {
    GEOMETRY
    const int group = blockIdx.z, K = kh * kw * Og;
    tile_product(blockIdx.x * TILE_M, blockIdx.y * TILE_N, 0, K,
        [&](int p, Index k) {
            if (p >= pixels || k >= K) return A(0);
            const int o = k % Og, v = k / Og % kw, u = k / (Og * kw);
            const Index at = output_at(g, p / (H * W), p / W % H, p % W, u, v);
            return at < 0 ? A(0) : A(gy[at + group * Og + o]);
        },
        [&](Index k, int c) { return c < Cg && k < K ? A(w[((Index)group * Cg + c) * K + k]) : A(0); },
        [&](int p, int c, A sum) { if (p < pixels && c < Cg) gx[(Index)p * C + group * Cg + c] = T(sum); });
}

// Grid: (tiles of filters, tiles of taps and channels, groups * parts); partial (parts, O, kh, kw, C/groups).
extern "C" __global__ void __launch_bounds__(256, 2) conv_weight_grad(const T* __restrict__ gy, const T* __restrict__ x, A* __restrict__ partial,
        Index pixels, Index pixels_per_part, int C, int H, int W, int O, int kh, int kw, int sh, int sw, int top, int left, int dh, int dw,
        int groups, int oh, int ow) {
    GEOMETRY
    const int group = blockIdx.z % groups, part = blockIdx.z / groups, K = kh * kw * Cg;
    const Index begin = part * pixels_per_part, end = begin + pixels_per_part < pixels ? begin + pixels_per_part : pixels;
    A* out = partial + (Index)part * O * K;
    tile_product(blockIdx.x * TILE_M, blockIdx.y * TILE_N, begin, end,
        [&](int o, Index p) { return o < Og && p < end ? A(gy[p * O + group * Og + o]) : A(0); },
        [&](Index p, int k) {
            if (p >= end || k >= K) return A(0);
            const int c = k % Cg, v = k / Cg % kw, u = k / (Cg * kw);
            const Index at = input_at(g, p / (oh * ow), p / ow % oh, p % ow, u, v);
            return at < 0 ? A(0) : A(x[at + group * Cg + c]);
        },
        [&](int o, int k, A sum) { if (o < Og && k < K) out[((Index)group * Og + o) * K + k] = sum; });
}
