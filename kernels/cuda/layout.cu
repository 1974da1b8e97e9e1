// layout.cu - arrays written in another order: filters and maps packed as the convolutions read them, sums of parts joined.
//
//   pack          one pass: axes in another order, and the last axis filled up with zeros to a whole number of vectors
//   join_parts    sums of parts (split-K) added in their order, then bias and ReLU
//   join_filters  the same for filters, which go back to (O, C/groups, kh, kw) in the same pass
#include "common.cuh"

// y (., B, C, padded) from x: element (a, b, c, d) of y is x[a*sa + b*sb + c*sc + d*sd], and 0 for d >= D.
extern "C" __global__ void pack(const T* __restrict__ x, T* __restrict__ y, Index n, int B, int C, int D, int padded, Index sa, Index sb,
        Index sc, Index sd) {
    GRID_STRIDE(i, n) {
        const int d = i % padded, c = i / padded % C, b = i / ((Index)padded * C) % B;
        const Index a = i / ((Index)padded * C * B);
        y[i] = d < D ? x[a * sa + b * sb + c * sc + d * sd] : T(0);
    }
}

// y (n / channels, channels) = sum of the parts + b.
extern "C" __global__ void join_parts(const A* __restrict__ partial, const T* __restrict__ b, T* __restrict__ y, Index n, int parts,
        int channels, int relu) {
    GRID_STRIDE(i, n) {
        A sum = 0;
        for (int part = 0; part < parts; part++) sum += partial[part * n + i];
        if (b) sum += A(b[i % channels]);
        y[i] = T(relu && sum < A(0) ? A(0) : sum);
    }
}

// gw (groups, Og, Cg, taps) from parts of `size` sums each, in which the four axes have the strides sg, so, sc, st.
extern "C" __global__ void join_filters(const A* __restrict__ partial, T* __restrict__ gw, Index n, int parts, Index size, int Og, int Cg,
        int taps, Index sg, Index so, Index sc, Index st) {
    GRID_STRIDE(i, n) {
        const int tap = i % taps, c = i / taps % Cg, o = i / ((Index)taps * Cg) % Og;
        const Index at = i / ((Index)taps * Cg * Og) * sg + o * so + c * sc + tap * st;
        A sum = 0;
        for (int part = 0; part < parts; part++) sum += partial[part * size + at];
        gw[i] = T(sum);
    }
}
