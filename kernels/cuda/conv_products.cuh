// conv_products.cuh - convolution and its gradients as products of tiles of any shape, on tensor cores or on the ordinary units.
//
// Forward and input gradient are one problem.  A row of the product is a pixel that is written, a column a channel that is written, and
// the inner index runs over taps and the channels that are read.  The input gradient of a convolution with strides is sh * sw such
// problems: pixels (h, w) with the same (h % sh, w % sw) meet the same taps, every sh-th or so, and no product with a zero is made.
#pragma once
#include "pipeline.cuh"

// One axis of a problem: output pixel i reads input pixel i * step + start + t * tap at its t-th tap, which is the filter's first + t * next.
struct Axis { int size, out, step, start, tap, taps, first, next; };

__device__ __forceinline__ Axis forward_axis(int size, int out, int kernel, int stride, int padding, int dilation) {
    return {size, out, stride, -padding, dilation, kernel, 0, 1};
}
// Pixels phase, phase + stride, ... of an input of `size`, computed from an output of `out`: those taps u for which
// phase + padding - u * dilation is a multiple of the stride.
__device__ __forceinline__ Axis backward_axis(int size, int out, int kernel, int stride, int padding, int dilation, int phase) {
    int first = 0, next = 1;
    while (first < kernel && (phase + padding - first * dilation) % stride) first++;
    while (next * dilation % stride) next++;
    const int taps = first < kernel ? (kernel - first + next - 1) / next : 0;
    return {out, (size - phase + stride - 1) / stride, 1, (phase + padding - first * dilation) / stride, -(next * dilation / stride), taps,
            first, next};
}

// Where the inner index stands: a tap (t, s) of the two axes, and the first of a few channels.
struct Taps {
    int t, s, c, channels, rows, columns;
    __device__ __forceinline__ Taps(int k, int channels, int rows, int columns) : channels(channels), rows(rows), columns(columns) {
        const int used = columns > 0 ? columns : 1;
        c = k % channels;
        s = k / channels % used;
        t = k / channels / used;
    }
    __device__ __forceinline__ bool inside() const { return t < rows; }
    __device__ __forceinline__ void advance() {
        for (c += DEPTH; c >= channels; c -= channels)
            if (++s == columns) { s = 0; t++; }
    }
};

// The windows: a row for each of the tile's pixels.
template <class Shape> struct Windows {
    typedef Share<Shape, Shape::M, false> Mine;
    const Axis v, h;
    const int C;
    const Taps& taps;
    const T* image[Mine::ROWS];
    int row[Mine::ROWS], column[Mine::ROWS];
    __device__ __forceinline__ Windows(const T* x, int pixel0, int pixels, Axis v, Axis h, int C, const Taps& taps) : v(v), h(h), C(C), taps(taps) {
#pragma unroll
        for (int i = 0; i < Mine::ROWS; i++) {
            const int p = pixel0 + Mine::row(i);
            image[i] = x + (Index)(p < pixels ? p / (v.out * h.out) : 0) * v.size * h.size * C;
            row[i] = p < pixels ? p / h.out % v.out * v.step + v.start : -(1 << 30);      // far outside, whatever the tap
            column[i] = p % h.out * h.step + h.start;
        }
    }
    __device__ __forceinline__ void fetch(unsigned char* factor) {
#pragma unroll
        for (int i = 0; i < Mine::ROWS; i++) {
            const int r = row[i] + taps.t * v.tap, j = column[i] + taps.s * h.tap;
            const bool inside = taps.inside() && (unsigned)r < (unsigned)v.size && (unsigned)j < (unsigned)h.size;
            Mine::copy(factor, i, inside ? image[i] + ((Index)r * h.size + j) * C + taps.c : image[i], inside);
        }
    }
};

// The filters: a row for each of the tile's channels.  They are fetched after the windows, and then the taps move on.
template <class Shape> struct Filters {
    typedef Share<Shape, Shape::N, false> Mine;
    const Axis v, h;
    const T* w;
    const int kernel_columns, length, channels, channel0;       // length: of one filter
    Taps& taps;
    __device__ __forceinline__ Filters(const T* w, int channel0, int channels, int kernel_rows, int kernel_columns, Axis v, Axis h, Taps& taps)
        : v(v), h(h), w(w), kernel_columns(kernel_columns), length(kernel_rows * kernel_columns * taps.channels), channels(channels),
          channel0(channel0), taps(taps) {}
    __device__ __forceinline__ void fetch(unsigned char* factor) {
        const int at = ((v.first + taps.t * v.next) * kernel_columns + h.first + taps.s * h.next) * taps.channels + taps.c;
#pragma unroll
        for (int i = 0; i < Mine::ROWS; i++) {
            const int o = channel0 + Mine::row(i);
            const bool inside = taps.inside() && o < channels;
            Mine::copy(factor, i, inside ? w + (Index)o * length + at : w, inside);
        }
        taps.advance();
    }
};

// Neighbours to memory: both at once where they are aligned and both inside.
template <class V> __device__ __forceinline__ void store_two(V* out, float a, float b, bool second) {
    struct alignas(2 * sizeof(V)) Two { V a, b; };
    if (second && (size_t)out % sizeof(Two) == 0) { *reinterpret_cast<Two*>(out) = Two{V(a), V(b)}; return; }
    out[0] = V(a);
    if (second) out[1] = V(b);
}

// The part of a problem that is this block's.  Windows of x (N, v.size, h.size, x_channels), of whose channels `inner` are the group's,
// times filters w; pixel_at(p) is where y or a part's sums have output pixel p, at the group's first of `outer` channels.
template <class Shape, class PixelAt>
__device__ __forceinline__ void convolve(unsigned char* shared, const T* x, const T* w, const T* b, T* y, float* partial, int part, int parts,
        int pixels, Axis v, Axis h, int x_channels, int inner, int outer, int kernel_rows, int kernel_columns, int relu, PixelAt pixel_at) {
    typedef typename Windows<Shape>::Mine Mine;
    const int across = (outer + Shape::N - 1) / Shape::N;       // neighbouring blocks read the same windows: from the cache, but for the first
    const int m0 = blockIdx.x / across * Shape::M, n0 = blockIdx.x % across * Shape::N;
    if (m0 >= pixels) return;
    const int slabs = (v.taps * h.taps * inner + DEPTH - 1) / DEPTH, per_part = (slabs + parts - 1) / parts;
    const int begin = part * per_part, end = begin + per_part < slabs ? begin + per_part : slabs;
    Taps taps(begin * DEPTH + Mine::column(), inner, v.taps, h.taps);
    Windows<Shape> windows(x, m0, pixels, v, h, x_channels, taps);
    Filters<Shape> filters(w, n0, outer, kernel_rows, kernel_columns, v, h, taps);
    tile_product<false, Shape>(typename Shape::Units(), shared, end - begin, windows, filters,
        [&](int m, int n, float first, float second, int there) {
            const int p = m0 + m, o = n0 + n;
            if (p >= pixels || o >= outer) return;
            const Index at = pixel_at(p) + o;
            const bool two = there == 2 && o + 1 < outer;
            if (partial) { store_two(partial + at, first, second, two); return; }
            if (b) { first += float(b[o]); second += two ? float(b[o + 1]) : 0.f; }
            if (relu) { first = first < 0.f ? 0.f : first; second = second < 0.f ? 0.f : second; }
            store_two(y + at, first, second, two);
        });
}

// Rows of a product that adds over pixels are pixels.  gy: a column for each of the tile's filters.
template <class Shape> struct Gradients {
    typedef Share<Shape, Shape::M, true> Mine;
    const T* at[Mine::ROWS];
    const T* gy;
    int left;                                                   // pixels
    const int O;
    const bool exists;
    __device__ __forceinline__ Gradients(const T* gy, int filter0, int filters, Index begin, int pixels, int O)
        : gy(gy), left(pixels), O(O), exists(filter0 + Mine::column() < filters) {
#pragma unroll
        for (int i = 0; i < Mine::ROWS; i++) at[i] = gy + (begin + Mine::row(i)) * O + filter0 + Mine::column();
    }
    __device__ __forceinline__ void fetch(unsigned char* factor) {
#pragma unroll
        for (int i = 0; i < Mine::ROWS; i++) {
            const bool inside = exists && Mine::row(i) < left;
            Mine::copy(factor, i, inside ? at[i] : gy, inside);
            at[i] += DEPTH * O;
        }
        left -= DEPTH;
    }
};

// x under one tap and a few channels: what the tile's column k of the weight gradient multiplies gy with.
template <class Shape> struct Inputs {
    typedef Share<Shape, Shape::N, true> Mine;
    const Axis v, h;
    const T* x;
    const int C;
    int left, image[Mine::ROWS], row[Mine::ROWS], column[Mine::ROWS];         // pixels that are left; where this thread's are in the output
    int down, right;                                            // from an output pixel's first input pixel to this tap's
    bool exists;
    __device__ __forceinline__ Inputs(const T* x_, int k0, Index begin, int pixels, Axis v, Axis h, int C, int channels)
        : v(v), h(h), C(C), left(pixels) {
        const Taps taps(k0 + Mine::column(), channels, v.taps, h.taps);
        exists = taps.inside();
        x = x_ + taps.c;
        down = v.start + taps.t * v.tap;
        right = h.start + taps.s * h.tap;
#pragma unroll
        for (int i = 0; i < Mine::ROWS; i++) {
            const Index p = begin + Mine::row(i);
            column[i] = p % h.out;
            row[i] = p / h.out % v.out;
            image[i] = p / h.out / v.out;
        }
    }
    __device__ __forceinline__ void fetch(unsigned char* factor) {
        const int next_column = DEPTH % h.out, next_row = DEPTH / h.out % v.out, next_image = DEPTH / h.out / v.out;
#pragma unroll
        for (int i = 0; i < Mine::ROWS; i++) {
            const int r = row[i] * v.step + down, j = column[i] * h.step + right;
            const bool inside = exists && Mine::row(i) < left && (unsigned)r < (unsigned)v.size && (unsigned)j < (unsigned)h.size;
            Mine::copy(factor, i, inside ? x + (((Index)image[i] * v.size + r) * h.size + j) * C : x, inside);
            column[i] += next_column;                           // DEPTH pixels on, without a division
            if (column[i] >= h.out) { column[i] -= h.out; row[i]++; }
            row[i] += next_row;
            if (row[i] >= v.out) { row[i] -= v.out; image[i]++; }
            image[i] += next_image;
        }
        left -= DEPTH;
    }
};

// out (filters, taps and channels of the group): the sums over `pixels` pixels from `begin` on.
template <class Shape>
__device__ __forceinline__ void weight_grad(unsigned char* shared, const T* gy, const T* x, float* out, Index begin, int pixels, Axis v, Axis h,
        int C, int O, int Cg, int Og) {
    const int m0 = blockIdx.x * Shape::M, n0 = blockIdx.y * Shape::N, K = v.taps * h.taps * Cg;
    Gradients<Shape> gradients(gy, m0, Og, begin, pixels, O);
    Inputs<Shape> inputs(x, n0, begin, pixels, v, h, C, Cg);
    tile_product<true, Shape>(typename Shape::Units(), shared, (pixels + DEPTH - 1) / DEPTH, gradients, inputs,
        [&](int m, int n, float first, float second, int there) {
            if (m0 + m < Og && n0 + n < K) store_two(out + (Index)(m0 + m) * K + n0 + n, first, second, there == 2 && n0 + n + 1 < K);
        });
}

// ---- the bodies of the kernels -----------------------------------------------------------------------------------------

#define GEOMETRY_PARAMETERS int C, int H, int W, int O, int kh, int kw, int sh, int sw, int top, int left, int dh, int dw, int groups, int oh, int ow

template <class Shape>
__device__ __forceinline__ void forward(unsigned char* shared, const T* x, const T* w, const T* b, T* y, float* partial, int parts, int pixels,
        GEOMETRY_PARAMETERS, int relu) {
    const int Cg = C / groups, Og = O / groups, group = blockIdx.z % groups, part = blockIdx.z / groups;
    convolve<Shape>(shared, x + group * Cg, w + (Index)group * Og * kh * kw * Cg, b ? b + group * Og : b, y,
        partial ? partial + (Index)part * pixels * O : partial, part, parts, pixels, forward_axis(H, oh, kh, sh, top, dh),
        forward_axis(W, ow, kw, sw, left, dw), C, Cg, Og, kh, kw, relu, [&](int p) { return (Index)p * O + group * Og; });
}

template <class Shape>
__device__ __forceinline__ void backward(unsigned char* shared, const T* gy, const T* w, T* gx, float* partial, int parts, int images,
        GEOMETRY_PARAMETERS) {
    const int Cg = C / groups, Og = O / groups, group = blockIdx.z % groups, phase = blockIdx.z / groups % (sh * sw);
    const int part = blockIdx.z / groups / (sh * sw), first_row = phase / sw, first_column = phase % sw;
    const Axis v = backward_axis(H, oh, kh, sh, top, dh, first_row), h = backward_axis(W, ow, kw, sw, left, dw, first_column);
    convolve<Shape>(shared, gy + group * Og, w + (Index)group * Cg * kh * kw * Og, nullptr, gx,
        partial ? partial + (Index)part * images * H * W * C : partial, part, parts, images * v.out * h.out, v, h, O, Og, Cg, kh, kw, 0, [&](int p) {
            const int row = first_row + p / h.out % v.out * sh, column = first_column + p % h.out * sw;
            return (((Index)(p / h.out / v.out) * H + row) * W + column) * C + group * Cg;
        });
}

template <class Shape>
__device__ __forceinline__ void weights(unsigned char* shared, const T* gy, const T* x, float* partial, int pixels, int pixels_per_part,
        GEOMETRY_PARAMETERS) {
    const int Cg = C / groups, Og = O / groups, group = blockIdx.z % groups, part = blockIdx.z / groups;
    const Index begin = (Index)part * pixels_per_part, rest = pixels > begin ? pixels - begin : 0;
    weight_grad<Shape>(shared, gy + group * Og, x + group * Cg, partial + ((Index)part * O + group * Og) * kh * kw * Cg, begin,
        (int)(rest < pixels_per_part ? rest : pixels_per_part),
        forward_axis(H, oh, kh, sh, top, dh), forward_axis(W, ow, kw, sw, left, dw), C, O, Cg, Og);
}
