// pool.cu - max and average pooling, adaptive or not, of channels-last maps: x (N, H, W, C), y (N, oh, ow, C).
//
//   naive   a thread an output; gradients scatter to the input with atomics
//   cuda    forward the same, with the window clipped once rather than tested at every position; gradients gather: a thread a pixel
//           of the input asks the few windows over it.  No atomics, the same bits every time, and gx needs no zeros first.
// Neighbouring threads have neighbouring channels, so every access of a warp is one stretch of memory.
#include "common.cuh"

__device__ __forceinline__ int first_inside(int start, int d) { return start < 0 ? (-start + d - 1) / d : 0; }
__device__ __forceinline__ int end_inside(int start, int d, int k, int size) {
    const int fits = start < size ? (size - start + d - 1) / d : 0;
    return fits < k ? fits : k;
}

extern "C" __global__ void max_pool_naive(const T* __restrict__ x, T* __restrict__ y, Index* __restrict__ indices, Index n, int C, int H,
        int W, int kh, int kw, int sh, int sw, int top, int left, int dh, int dw, int oh, int ow) {
    GRID_STRIDE(i, n) {
        const int c = i % C, j = i / C % ow, r = i / ((Index)C * ow) % oh;
        const Index image = i / ((Index)C * ow * oh) * H;
        A best = 0;
        int at = -1;
        for (int u = 0; u < kh; u++)
            for (int v = 0; v < kw; v++) {
                const int h = r * sh - top + u * dh, w = j * sw - left + v * dw;
                if (h < 0 || h >= H || w < 0 || w >= W) continue;
                const A value = A(x[((image + h) * W + w) * C + c]);
                if (at < 0 || value > best || (value != value && best == best)) { best = value; at = h * W + w; }
            }
        y[i] = T(best);
        indices[i] = at;
    }
}

extern "C" __global__ void max_pool(const T* __restrict__ x, T* __restrict__ y, Index* __restrict__ indices, Index n, int C, int H,
        int W, int kh, int kw, int sh, int sw, int top, int left, int dh, int dw, int oh, int ow) {
    GRID_STRIDE(i, n) {
        const int c = i % C, j = i / C % ow, r = i / ((Index)C * ow) % oh;
        const Index image = i / ((Index)C * ow * oh) * H;
        const int h0 = r * sh - top, w0 = j * sw - left;
        const int u0 = first_inside(h0, dh), u1 = end_inside(h0, dh, kh, H), v0 = first_inside(w0, dw), v1 = end_inside(w0, dw, kw, W);
        int at = (h0 + u0 * dh) * W + w0 + v0 * dw;
        A best = A(x[(image * W + at) * C + c]);
        for (int u = u0; u < u1; u++)
            for (int v = v0; v < v1; v++) {
                const int here = (h0 + u * dh) * W + w0 + v * dw;
                const A value = A(x[(image * W + here) * C + c]);
                if (value > best || (value != value && best == best)) { best = value; at = here; }     // the first maximum, or NaN
            }
        y[i] = T(best);
        indices[i] = at;
    }
}

extern "C" __global__ void max_pool_grad_naive(const T* __restrict__ gy, const Index* __restrict__ indices, A* gx, Index n, int C, int H,
        int W, int oh, int ow) {
    GRID_STRIDE(i, n) {
        const Index image = i / ((Index)C * ow * oh);
#ifdef BUG_NO_ATOMIC
        gx[(image * H * W + indices[i]) * C + i % C] += A(gy[i]);
#else
        atomicAdd(&gx[(image * H * W + indices[i]) * C + i % C], A(gy[i]));
#endif
    }
}

// The windows over pixel h are those that start in h - (kh-1)*dh .. h, every sh.
__device__ __forceinline__ int first_window(int at, int pad, int reach, int stride) {
    const int start = at + pad - reach;
    return start <= 0 ? 0 : (start + stride - 1) / stride;
}
__device__ __forceinline__ int last_window(int at, int pad, int stride, int count) {
    const int last = (at + pad) / stride;
    return last < count - 1 ? last : count - 1;
}

extern "C" __global__ void max_pool_grad(const T* __restrict__ gy, const Index* __restrict__ indices, T* __restrict__ gx, Index n, int C,
        int H, int W, int kh, int kw, int sh, int sw, int top, int left, int dh, int dw, int oh, int ow) {
    GRID_STRIDE(i, n) {
        const int c = i % C, w = i / C % W, h = i / ((Index)C * W) % H;
        const Index image = i / ((Index)C * W * H) * oh;
        const int mine = h * W + w;
        const int r1 = last_window(h, top, sh, oh), j0 = first_window(w, left, (kw - 1) * dw, sw), j1 = last_window(w, left, sw, ow);
        A sum = 0;
        for (int r = first_window(h, top, (kh - 1) * dh, sh); r <= r1; r++)
            for (int j = j0; j <= j1; j++) {
                const Index window = ((image + r) * ow + j) * C + c;
                if (indices[window] == mine) sum += A(gy[window]);
            }
        gx[i] = T(sum);
    }
}

// How many values window r of an axis averages: with the padding, but never what ceil mode adds beyond it.
__device__ __forceinline__ int averaged(int r, int stride, int pad, int pad_after, int k, int size, int count_pad) {
    const int start = r * stride - pad, limit = size + (count_pad ? pad_after : 0);
    const int begin = count_pad || start > 0 ? start : 0, end = start + k < limit ? start + k : limit;
    return end - begin;
}

extern "C" __global__ void avg_pool(const T* __restrict__ x, T* __restrict__ y, Index n, int C, int H, int W, int kh, int kw, int sh, int sw,
        int top, int bottom, int left, int right, int oh, int ow, int count_pad) {
    GRID_STRIDE(i, n) {
        const int c = i % C, j = i / C % ow, r = i / ((Index)C * ow) % oh;
        const Index image = i / ((Index)C * ow * oh) * H;
        const int h0 = r * sh - top, w0 = j * sw - left;
        A sum = 0;
        for (int h = h0 > 0 ? h0 : 0; h < h0 + kh && h < H; h++)
            for (int w = w0 > 0 ? w0 : 0; w < w0 + kw && w < W; w++) sum += A(x[((image + h) * W + w) * C + c]);
        y[i] = T(sum / A(averaged(r, sh, top, bottom, kh, H, count_pad) * averaged(j, sw, left, right, kw, W, count_pad)));
    }
}

extern "C" __global__ void avg_pool_grad(const T* __restrict__ gy, T* __restrict__ gx, Index n, int C, int H, int W, int kh, int kw, int sh,
        int sw, int top, int bottom, int left, int right, int oh, int ow, int count_pad) {
    GRID_STRIDE(i, n) {
        const int c = i % C, w = i / C % W, h = i / ((Index)C * W) % H;
        const Index image = i / ((Index)C * W * H) * oh;
        const int r1 = last_window(h, top, sh, oh), j0 = first_window(w, left, kw - 1, sw), j1 = last_window(w, left, sw, ow);
        A sum = 0;
        for (int r = first_window(h, top, kh - 1, sh); r <= r1; r++)
            for (int j = j0; j <= j1; j++)
                sum += A(gy[((image + r) * ow + j) * C + c])
                     / A(averaged(r, sh, top, bottom, kh, H, count_pad) * averaged(j, sw, left, right, kw, W, count_pad));
        gx[i] = T(sum);
    }
}

// y[i] = x at the flat index of its plane that max pooling found: the second derivative asks for it.
extern "C" __global__ void max_pool_take(const T* __restrict__ x, const Index* __restrict__ indices, T* __restrict__ y, Index n, int C,
        Index plane_in, Index plane_out) {
    GRID_STRIDE(i, n) y[i] = x[(i / (C * plane_out) * plane_in + indices[i]) * C + i % C];
}

// ---- adaptive pooling: output r of an axis covers r*size/count .. ceil((r+1)*size/count), and neighbours may share a pixel -----------
__device__ __forceinline__ int bin_begin(int r, int count, int size) { return int((Index)r * size / count); }
__device__ __forceinline__ int bin_end(int r, int count, int size) { return int(((Index)(r + 1) * size + count - 1) / count); }
// The bins over a pixel: the first that ends behind it to the last that begins before.
__device__ __forceinline__ int first_bin(int at, int count, int size) { return int((Index)at * count / size); }
__device__ __forceinline__ int last_bin(int at, int count, int size) { return int(((Index)(at + 1) * count + size - 1) / size) - 1; }

extern "C" __global__ void adaptive_avg_pool(const T* __restrict__ x, T* __restrict__ y, Index n, int C, int H, int W, int oh, int ow) {
    GRID_STRIDE(i, n) {
        const int c = i % C, j = i / C % ow, r = i / ((Index)C * ow) % oh;
        const Index image = i / ((Index)C * ow * oh) * H;
        const int h0 = bin_begin(r, oh, H), h1 = bin_end(r, oh, H), w0 = bin_begin(j, ow, W), w1 = bin_end(j, ow, W);
        A sum = 0;
        for (int h = h0; h < h1; h++)
            for (int w = w0; w < w1; w++) sum += A(x[((image + h) * W + w) * C + c]);
        y[i] = T(sum / A((h1 - h0) * (w1 - w0)));
    }
}

extern "C" __global__ void adaptive_avg_pool_grad(const T* __restrict__ gy, T* __restrict__ gx, Index n, int C, int H, int W, int oh, int ow) {
    GRID_STRIDE(i, n) {
        const int c = i % C, w = i / C % W, h = i / ((Index)C * W) % H;
        const Index image = i / ((Index)C * W * H) * oh;
        const int r1 = last_bin(h, oh, H), j0 = first_bin(w, ow, W), j1 = last_bin(w, ow, W);
        A sum = 0;
        for (int r = first_bin(h, oh, H); r <= r1; r++)
            for (int j = j0; j <= j1; j++) {
                const int size = (bin_end(r, oh, H) - bin_begin(r, oh, H)) * (bin_end(j, ow, W) - bin_begin(j, ow, W));
                sum += A(gy[((image + r) * ow + j) * C + c]) / A(size);
            }
        gx[i] = T(sum);
    }
}

extern "C" __global__ void adaptive_max_pool(const T* __restrict__ x, T* __restrict__ y, Index* __restrict__ indices, Index n, int C, int H,
        int W, int oh, int ow) {
    GRID_STRIDE(i, n) {
        const int c = i % C, j = i / C % ow, r = i / ((Index)C * ow) % oh;
        const Index image = i / ((Index)C * ow * oh) * H;
        const int h0 = bin_begin(r, oh, H), h1 = bin_end(r, oh, H), w0 = bin_begin(j, ow, W), w1 = bin_end(j, ow, W);
        int at = h0 * W + w0;
        A best = A(x[(image * W + at) * C + c]);
        for (int h = h0; h < h1; h++)
            for (int w = w0; w < w1; w++) {
                const A value = A(x[((image + h) * W + w) * C + c]);
                if (value > best || (value != value && best == best)) { best = value; at = h * W + w; }        // the first maximum, or NaN
            }
        y[i] = T(best);
        indices[i] = at;
    }
}

extern "C" __global__ void adaptive_max_pool_grad(const T* __restrict__ gy, const Index* __restrict__ indices, T* __restrict__ gx, Index n, int C,
        int H, int W, int oh, int ow) {
    GRID_STRIDE(i, n) {
        const int c = i % C, w = i / C % W, h = i / ((Index)C * W) % H;
        const Index image = i / ((Index)C * W * H) * oh;
        const int mine = h * W + w, r1 = last_bin(h, oh, H), j0 = first_bin(w, ow, W), j1 = last_bin(w, ow, W);
        A sum = 0;
        for (int r = first_bin(h, oh, H); r <= r1; r++)
            for (int j = j0; j <= j1; j++) {
                const Index bin = ((image + r) * ow + j) * C + c;
                if (indices[bin] == mine) sum += A(gy[bin]);
            }
        gx[i] = T(sum);
    }
}
