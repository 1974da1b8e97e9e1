// windows.cuh - where the taps of a convolution are in channels-last maps.
#pragma once
#include "common.cuh"

struct Geometry { int C, H, W, O, kh, kw, sh, sw, top, left, dh, dw, groups, oh, ow; };

// x at tap (u, v) of the window of output pixel (n, r, j): where it is, or -1 in the padding.
__device__ __forceinline__ Index input_at(const Geometry& g, Index n, int r, int j, int u, int v) {
    const int h = r * g.sh - g.top + u * g.dh, w = j * g.sw - g.left + v * g.dw;
    return (unsigned)h < (unsigned)g.H && (unsigned)w < (unsigned)g.W ? ((n * g.H + h) * g.W + w) * g.C : -1;
}
// y whose window has input pixel (n, h, w) at tap (u, v): where it is, or -1 if there is none.
__device__ __forceinline__ Index output_at(const Geometry& g, Index n, int h, int w, int u, int v) {
    const int rows = h + g.top - u * g.dh, columns = w + g.left - v * g.dw;
    if (rows < 0 || columns < 0 || rows % g.sh || columns % g.sw) return -1;
    const int r = rows / g.sh, j = columns / g.sw;
    return r < g.oh && j < g.ow ? ((n * g.oh + r) * g.ow + j) * g.O : -1;
}

#define GEOMETRY const Geometry g = {C, H, W, O, kh, kw, sh, sw, top, left, dh, dw, groups, oh, ow}; \
    const int Cg = C / groups, Og = O / groups;
