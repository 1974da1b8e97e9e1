// packs.cuh - 16 bytes at a time: a quarter of the instructions per byte (an eighth for 16-bit types).
// Arrays that do not begin at a multiple of 16 bytes get the naive kernels; the launch looks.
#pragma once
#include "common.cuh"

struct alignas(16) Pack { T v[16 / sizeof(T)]; };
constexpr int PACK = 16 / sizeof(T);

// y[i] = f(x[i]) and y[i] = f(a[i], b[i]), f in the type that is computed in; an element a thread.
template <class F> __device__ __forceinline__ void each(const T* __restrict__ x, T* __restrict__ y, Index n, F f) {
    GRID_STRIDE(i, n) y[i] = T(f(A(x[i])));
}
template <class F> __device__ __forceinline__ void each(const T* __restrict__ a, const T* __restrict__ b, T* __restrict__ y, Index n, F f) {
    GRID_STRIDE(i, n) y[i] = T(f(A(a[i]), A(b[i])));
}

// The same, a pack a thread; the last n % PACK elements are left to the first threads.
template <class F> __device__ __forceinline__ void each_packed(const T* __restrict__ x, T* __restrict__ y, Index n, F f) {
    GRID_STRIDE(p, n / PACK) {
        Pack v = reinterpret_cast<const Pack*>(x)[p];
#pragma unroll
        for (int e = 0; e < PACK; e++) v.v[e] = T(f(A(v.v[e])));
        reinterpret_cast<Pack*>(y)[p] = v;
    }
    const Index i = n / PACK * PACK + (Index)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = T(f(A(x[i])));
}
template <class F>
__device__ __forceinline__ void each_packed(const T* __restrict__ a, const T* __restrict__ b, T* __restrict__ y, Index n, F f) {
    GRID_STRIDE(p, n / PACK) {
        Pack u = reinterpret_cast<const Pack*>(a)[p];
        const Pack v = reinterpret_cast<const Pack*>(b)[p];
#pragma unroll
        for (int e = 0; e < PACK; e++) u.v[e] = T(f(A(u.v[e]), A(v.v[e])));
        reinterpret_cast<Pack*>(y)[p] = u;
    }
    const Index i = n / PACK * PACK + (Index)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = T(f(A(a[i]), A(b[i])));
}

// Packs of rows of C, which PACK divides: a pack a thread, and then the one that all threads further on.  c is the first of its
// channels, found by additions: a division for each would take longer than the memory does.
#define PACKS_OF_CHANNELS(p, c, n, C)                                                                                       \
    const Index step_ = (Index)gridDim.x * blockDim.x;                                                                      \
    const int columns_ = (C) / PACK, ahead_ = int(step_ % columns_) * PACK;                                                 \
    Index p = (Index)blockIdx.x * blockDim.x + threadIdx.x;                                                                 \
    for (int c = int(p % columns_) * PACK; p < (n) / PACK; p += step_, c += c + ahead_ >= (C) ? ahead_ - (C) : ahead_)
