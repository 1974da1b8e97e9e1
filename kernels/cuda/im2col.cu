// im2col.cu - every window of x as a column, and back.  x (N, C, H, W), cols (N, C*kh*kw, oh*ow), both contiguous.
//
//   naive   im2col: a thread an element of cols; col2im: a thread an element of cols that adds its value with an atomic
//   cuda    im2col: a thread a window's row of kw values, so that the divisions that find the place are shared by kw elements;
//           col2im: a thread a pixel of x that gathers from the windows over it: no atomics, so the same bits every time
#include "common.cuh"

extern "C" __global__ void im2col_naive(const T* __restrict__ x, T* __restrict__ cols, Index n, int C, int H, int W, int kh, int kw,
        int sh, int sw, int top, int left, int dh, int dw, int oh, int ow) {
    GRID_STRIDE(i, n) {
        const int j = i % ow, r = i / ow % oh;
        const Index window = i / ((Index)ow * oh);              // ((image * C + channel) * kh + u) * kw + v
        const int v = window % kw, u = window / kw % kh;
        const Index plane = window / (kh * kw);
        const int h = r * sh - top + u * dh, w = j * sw - left + v * dw;
        const bool inside = (unsigned)h < (unsigned)H && (unsigned)w < (unsigned)W;
        cols[i] = inside ? x[(plane * H + h) * W + w] : T(0);
    }
}

extern "C" __global__ void im2col(const T* __restrict__ x, T* __restrict__ cols, Index n, int C, int H, int W, int kh, int kw,
        int sh, int sw, int top, int left, int dh, int dw, int oh, int ow) {
    GRID_STRIDE(i, n) {                                         // (plane, u, r, j): one row u of the window at (r, j)
        const int j = i % ow, r = i / ow % oh, u = i / ((Index)ow * oh) % kh;
        const Index plane = i / ((Index)ow * oh * kh);
        const int h = r * sh - top + u * dh;
        const bool row_inside = (unsigned)h < (unsigned)H;
        const T* row = x + (plane * H + h) * W;
        T* column = cols + ((plane * kh + u) * kw * oh + r) * ow + j;
        for (int v = 0; v < kw; v++) {
            const int w = j * sw - left + v * dw;
            column[(Index)v * oh * ow] = row_inside && (unsigned)w < (unsigned)W ? row[w] : T(0);
        }
    }
}

// A is what x is added in: of T for T = float and double; for the 16-bit types the caller converts.
extern "C" __global__ void col2im_naive(const T* __restrict__ cols, A* x, Index n, int C, int H, int W, int kh, int kw,
        int sh, int sw, int top, int left, int dh, int dw, int oh, int ow) {
    GRID_STRIDE(i, n) {
        const int j = i % ow, r = i / ow % oh;
        const Index window = i / ((Index)ow * oh);
        const int v = window % kw, u = window / kw % kh;
        const Index plane = window / (kh * kw);
        const int h = r * sh - top + u * dh, w = j * sw - left + v * dw;
        if ((unsigned)h >= (unsigned)H || (unsigned)w >= (unsigned)W) continue;
#ifdef BUG_NO_ATOMIC
        x[(plane * H + h) * W + w] += A(cols[i]);
#else
        atomicAdd(&x[(plane * H + h) * W + w], A(cols[i]));
#endif
    }
}

extern "C" __global__ void col2im(const T* __restrict__ cols, T* __restrict__ x, Index n, int C, int H, int W, int kh, int kw,
        int sh, int sw, int top, int left, int dh, int dw, int oh, int ow) {
    GRID_STRIDE(i, n) {
        const int w = i % W, h = i / W % H;
        const Index plane = i / ((Index)W * H);
        A sum = 0;
        for (int u = 0; u < kh; u++) {
            const int rows = h + top - u * dh, r = rows / sh;
            if (rows < 0 || rows % sh || r >= oh) continue;
            for (int v = 0; v < kw; v++) {
                const int columns = w + left - v * dw, j = columns / sw;
                if (columns < 0 || columns % sw || j >= ow) continue;
                sum += A(cols[(((plane * kh + u) * kw + v) * oh + r) * ow + j]);
            }
        }
        x[i] = T(sum);
    }
}
