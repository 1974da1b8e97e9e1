// depthwise.cu - convolution with few channels per group, channels last.  A tile of conv.cu would be empty but for those few columns.
//
//   x (N, H, W, C)   w (kh, kw, C/groups, O)   y (N, oh, ow, O)
//
//   naive      in conv.cu: w is (O, kh, kw, C/groups), so that the lanes of a warp, which are neighbours in O, read it far apart
//   grouped    a thread an output; w has its filters last, so that lanes read neighbours, and the lanes of a group read the same x.
//   depthwise  one channel per group: a thread has 16 bytes of channels of 4 neighbouring pixels; a load of w serves four pixels, and
//              every load is 16 bytes.
//   weight gradient: lanes are filters, the eight warps of a block take pixels in turn; a thread keeps the sums of 9 taps, so that gy is
//              read once for all taps of a 3 x 3 filter.  Warps, then parts (layout.cu), are added in their order: no atomics.
#include "packs.cuh"
#include "windows.cuh"

constexpr int PIXELS = 4;                                       // of a thread of `depthwise`, each with 16 bytes of channels
constexpr int TAPS = 9, WARPS = 8;                              // sums of a thread, and warps, of the weight gradient

extern "C" __global__ void grouped(const T* __restrict__ x, const T* __restrict__ w, const T* __restrict__ b, T* __restrict__ y, Index n,
        int C, int H, int W, int O, int kh, int kw, int sh, int sw, int top, int left, int dh, int dw, int groups, int oh, int ow, int relu) {
    GEOMETRY
    GRID_STRIDE(i, n) {
        const int o = i % O, j = i / O % ow, r = i / ((Index)O * ow) % oh, first = o / Og * Cg;
        const Index image = i / ((Index)O * ow * oh);
        A sum = b ? A(b[o]) : A(0);
        for (int u = 0; u < kh; u++)
            for (int v = 0; v < kw; v++) {
                const Index at = input_at(g, image, r, j, u, v);
                if (at < 0) continue;
                for (int c = 0; c < Cg; c++) sum += A(x[at + first + c]) * A(w[((Index)(u * kw + v) * Cg + c) * O + o]);
            }
        y[i] = T(relu && sum < A(0) ? A(0) : sum);
    }
}

extern "C" __global__ void grouped_input_grad(const T* __restrict__ gy, const T* __restrict__ w, T* __restrict__ gx, Index n, int C, int H,
        int W, int O, int kh, int kw, int sh, int sw, int top, int left, int dh, int dw, int groups, int oh, int ow) {
    GEOMETRY
    GRID_STRIDE(i, n) {
        const int c = i % C, column = i / C % W, row = i / ((Index)C * W) % H, first = c / Cg * Og;
        const Index image = i / ((Index)C * W * H);
        A sum = 0;
        for (int u = 0; u < kh; u++)
            for (int v = 0; v < kw; v++) {
                const Index at = output_at(g, image, row, column, u, v);
                if (at < 0) continue;
                const T* filters = w + ((Index)(u * kw + v) * Cg + c % Cg) * O + first;
                for (int o = 0; o < Og; o++) sum += A(gy[at + first + o]) * A(filters[o]);
            }
        gx[i] = T(sum);
    }
}

// out (N, rows, columns, C) at thread i's channels of PIXELS pixels, adding to `sums` what find(n, row, column, u, v) points to.
template <class Find, class Finish>
__device__ __forceinline__ void few_pixels(Index i, const T* from, const T* w, T* out, int C, int rows, int columns, int kh, int kw,
        Find find, Finish finish) {
    const int steps = (columns + PIXELS - 1) / PIXELS, vectors = C / PACK;
    const int c = i % vectors * PACK, column = i / vectors % steps * PIXELS, row = i / ((Index)vectors * steps) % rows;
    const Index image = i / ((Index)vectors * steps * rows);
    A sums[PIXELS][PACK] = {};
    for (int u = 0; u < kh; u++)
        for (int v = 0; v < kw; v++) {
            const Pack filter = *reinterpret_cast<const Pack*>(w + (Index)(u * kw + v) * C + c);
#pragma unroll
            for (int p = 0; p < PIXELS; p++) {
                const Index at = column + p < columns ? find(image, row, column + p, u, v) : -1;
                if (at < 0) continue;
                const Pack values = *reinterpret_cast<const Pack*>(from + at + c);
#pragma unroll
                for (int e = 0; e < PACK; e++) sums[p][e] += A(values.v[e]) * A(filter.v[e]);
            }
        }
#pragma unroll
    for (int p = 0; p < PIXELS; p++) {
        if (column + p >= columns) continue;
        Pack result;
#pragma unroll
        for (int e = 0; e < PACK; e++) result.v[e] = T(finish(c + e, sums[p][e]));
        *reinterpret_cast<Pack*>(out + ((image * rows + row) * columns + column + p) * C + c) = result;
    }
}

// O = C = groups, a multiple of 16 bytes; n threads.
extern "C" __global__ void depthwise(const T* __restrict__ x, const T* __restrict__ w, const T* __restrict__ b, T* __restrict__ y, Index n,
        int C, int H, int W, int O, int kh, int kw, int sh, int sw, int top, int left, int dh, int dw, int groups, int oh, int ow, int relu) {
    GEOMETRY
    GRID_STRIDE(i, n)
        few_pixels(i, x, w, y, C, oh, ow, kh, kw, [&](Index image, int r, int j, int u, int v) { return input_at(g, image, r, j, u, v); },
            [&](int c, A sum) {
                if (b) sum += A(b[c]);
                return relu && sum < A(0) ? A(0) : sum;
            });
}

extern "C" __global__ void depthwise_input_grad(const T* __restrict__ gy, const T* __restrict__ w, T* __restrict__ gx, Index n, int C, int H,
        int W, int O, int kh, int kw, int sh, int sw, int top, int left, int dh, int dw, int groups, int oh, int ow) {
    GEOMETRY
    GRID_STRIDE(i, n)
        few_pixels(i, gy, w, gx, C, H, W, kh, kw, [&](Index image, int h, int j, int u, int v) { return output_at(g, image, h, j, u, v); },
            [](int, A sum) { return sum; });
}

// Grid: (filters / 32, taps and channels / TAPS, parts); partial (parts, kh, kw, C/groups, O).
extern "C" __global__ void __launch_bounds__(256, 2) grouped_weight_grad(const T* __restrict__ gy, const T* __restrict__ x,
        A* __restrict__ partial, int pixels, int pixels_per_part, int C, int H, int W, int O, int kh, int kw, int sh, int sw, int top, int left,
        int dh, int dw, int groups, int oh, int ow) {
    GEOMETRY
    __shared__ A of_warps[TAPS][WARPS][32];
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, o = blockIdx.x * 32 + lane, K = kh * kw * Cg, k0 = blockIdx.y * TAPS;
    const Index begin = (Index)blockIdx.z * pixels_per_part, end = begin + pixels_per_part < pixels ? begin + pixels_per_part : pixels;
    A sums[TAPS] = {};
    int u[TAPS], v[TAPS], c[TAPS];
#pragma unroll
    for (int t = 0; t < TAPS; t++) {
        const int k = k0 + t;
        c[t] = o / Og * Cg + k % Cg;
        v[t] = k / Cg % kw;
        u[t] = k / Cg / kw;                                     // kh or more: past the last tap
    }
    if (o < O)
        for (int p = begin + warp; p < end; p += WARPS) {
            const A gradient = A(gy[(Index)p * O + o]);
            const int j = p % ow, r = p / ow % oh, image = p / ow / oh;
#pragma unroll
            for (int t = 0; t < TAPS; t++) {
                const Index at = u[t] < kh ? input_at(g, image, r, j, u[t], v[t]) : -1;
                if (at >= 0) sums[t] += gradient * A(x[at + c[t]]);
            }
        }
#pragma unroll
    for (int t = 0; t < TAPS; t++) of_warps[t][warp][lane] = sums[t];
#ifndef BUG_NO_BARRIER_BEFORE_JOINING
    __syncthreads();
#endif
    for (int t = warp; t < TAPS; t += WARPS) {
        A sum = 0;
        for (int i = 0; i < WARPS; i++) sum += of_warps[t][i][lane];
        if (o < O && k0 + t < K) partial[((Index)blockIdx.z * K + k0 + t) * O + o] = sum;
    }
}
