// elementwise.cu - ReLU, the gradients of ReLU and tanh, addition, a bias for every row.  Bound by memory: 2 or 3 arrays pass, nothing is computed.
//
//   naive   a thread an element
//   cuda    four elements of a thread in one 16-byte access (8 of a 16-bit type): a quarter of the instructions per byte
#include "packs.cuh"

__device__ __forceinline__ A relu_of(A x) { return x < A(0) ? A(0) : x; }                  // NaN < 0 is false: NaN stays
__device__ __forceinline__ A relu_grad_of(A gy, A y) { return y > A(0) ? gy : A(0); }
__device__ __forceinline__ A tanh_grad_of(A gy, A y) { return gy * (A(1) - y * y); }
__device__ __forceinline__ A add_of(A a, A b) { return a + b; }

extern "C" __global__ void relu_naive(const T* __restrict__ x, T* __restrict__ y, Index n) { each(x, y, n, relu_of); }
extern "C" __global__ void relu_grad_naive(const T* __restrict__ gy, const T* __restrict__ y, T* __restrict__ gx, Index n) {
    each(gy, y, gx, n, relu_grad_of);
}
extern "C" __global__ void tanh_grad_naive(const T* __restrict__ gy, const T* __restrict__ y, T* __restrict__ gx, Index n) {
    each(gy, y, gx, n, tanh_grad_of);
}
extern "C" __global__ void add_naive(const T* __restrict__ a, const T* __restrict__ b, T* __restrict__ y, Index n) {
    each(a, b, y, n, add_of);
}

extern "C" __global__ void relu(const T* __restrict__ x, T* __restrict__ y, Index n) { each_packed(x, y, n, relu_of); }
extern "C" __global__ void relu_grad(const T* __restrict__ gy, const T* __restrict__ y, T* __restrict__ gx, Index n) {
    each_packed(gy, y, gx, n, relu_grad_of);
}
extern "C" __global__ void tanh_grad(const T* __restrict__ gy, const T* __restrict__ y, T* __restrict__ gx, Index n) {
    each_packed(gy, y, gx, n, tanh_grad_of);
}
extern "C" __global__ void add(const T* __restrict__ a, const T* __restrict__ b, T* __restrict__ y, Index n) {
    each_packed(a, b, y, n, add_of);
}

// y (rows, N) += b (N,)
extern "C" __global__ void add_bias_naive(T* y, const T* __restrict__ b, Index n, int N) {
    GRID_STRIDE(i, n) y[i] = T(add_of(A(y[i]), A(b[i % N])));
}
extern "C" __global__ void add_bias(T* y, const T* __restrict__ b, Index n, int N) {
    PACKS_OF_CHANNELS(p, c, n, N) {
        Pack v = reinterpret_cast<const Pack*>(y)[p];
        const Pack bias = reinterpret_cast<const Pack*>(b)[c / PACK];
#pragma unroll
        for (int e = 0; e < PACK; e++) v.v[e] = T(add_of(A(v.v[e]), A(bias.v[e])));
        reinterpret_cast<Pack*>(y)[p] = v;
    }
}
