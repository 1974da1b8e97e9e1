// activation.cu - sigmoid, tanh, SiLU, GELU and their gradients.  Bound by memory like ReLU, if the functions are few instructions.
//
//   naive   a thread an element
//   cuda    16 bytes a thread
//
// The formulas keep their digits: e^-|x| cannot overflow, x Phi(x) = x erfc(-x/sqrt 2) / 2 is exact where 1 + erf(x) would cancel,
// and GELU's tanh form x (1 + tanh z) / 2 is x sigmoid(2z) for the same reason.
#include "packs.cuh"

__device__ __forceinline__ float tangent(float x) { return tanhf(x); }
__device__ __forceinline__ double tangent(double x) { return tanh(x); }
__device__ __forceinline__ float complement(float x) { return erfcf(x); }
__device__ __forceinline__ double complement(double x) { return erfc(x); }

__device__ __forceinline__ A sigmoid_of(A x) {
    const A e = exponential(x < A(0) ? x : -x);
    return (x < A(0) ? e : A(1)) / (A(1) + e);
}
__device__ __forceinline__ A sigmoid_grad_of(A gy, A y) { return gy * y * (A(1) - y); }
__device__ __forceinline__ A tanh_of(A x) { return tangent(x); }
__device__ __forceinline__ A silu_of(A x) { return x * sigmoid_of(x); }
__device__ __forceinline__ A silu_grad_of(A gy, A x) {
    const A s = sigmoid_of(x);
    return gy * (s * (A(1) + x * (A(1) - s)));
}

__device__ __forceinline__ A normal_below(A x) { return A(0.5) * complement(x * A(-0.70710678118654752440)); }     // Phi(x)
__device__ __forceinline__ A gelu_of(A x) { return x * normal_below(x); }
__device__ __forceinline__ A gelu_grad_of(A gy, A x) {
    return gy * (normal_below(x) + x * exponential(A(-0.5) * x * x) * A(0.39894228040143267794));                  // 1 / sqrt(2 pi)
}

constexpr double CURVE = 1.5957691216057307117, CUBIC = 0.044715;                                                  // sqrt(8 / pi)
__device__ __forceinline__ A gelu_tanh_of(A x) { return x * sigmoid_of(x * (x * x * A(CURVE * CUBIC) + A(CURVE))); }
__device__ __forceinline__ A gelu_tanh_grad_of(A gy, A x) {
    const A square = x * x < A(1e6) ? x * x : A(1e6);                   // an infinite slope times 0 would be NaN
    const A s = sigmoid_of(x * (square * A(CURVE * CUBIC) + A(CURVE)));
    return gy * (s + x * s * (A(1) - s) * (square * A(3 * CURVE * CUBIC) + A(CURVE)));
}

extern "C" __global__ void sigmoid_naive(const T* __restrict__ x, T* __restrict__ y, Index n) { each(x, y, n, sigmoid_of); }
extern "C" __global__ void sigmoid(const T* __restrict__ x, T* __restrict__ y, Index n) { each_packed(x, y, n, sigmoid_of); }

extern "C" __global__ void sigmoid_grad_naive(const T* __restrict__ gy, const T* __restrict__ y, T* __restrict__ gx, Index n) {
    each(gy, y, gx, n, sigmoid_grad_of);
}
extern "C" __global__ void sigmoid_grad(const T* __restrict__ gy, const T* __restrict__ y, T* __restrict__ gx, Index n) {
    each_packed(gy, y, gx, n, sigmoid_grad_of);
}

extern "C" __global__ void tanh_naive(const T* __restrict__ x, T* __restrict__ y, Index n) { each(x, y, n, tanh_of); }
extern "C" __global__ void tanh_packed(const T* __restrict__ x, T* __restrict__ y, Index n) { each_packed(x, y, n, tanh_of); }

extern "C" __global__ void silu_naive(const T* __restrict__ x, T* __restrict__ y, Index n) { each(x, y, n, silu_of); }
extern "C" __global__ void silu(const T* __restrict__ x, T* __restrict__ y, Index n) { each_packed(x, y, n, silu_of); }

extern "C" __global__ void silu_grad_naive(const T* __restrict__ gy, const T* __restrict__ x, T* __restrict__ gx, Index n) {
    each(gy, x, gx, n, silu_grad_of);
}
extern "C" __global__ void silu_grad(const T* __restrict__ gy, const T* __restrict__ x, T* __restrict__ gx, Index n) {
    each_packed(gy, x, gx, n, silu_grad_of);
}

extern "C" __global__ void gelu_naive(const T* __restrict__ x, T* __restrict__ y, Index n) { each(x, y, n, gelu_of); }
extern "C" __global__ void gelu(const T* __restrict__ x, T* __restrict__ y, Index n) { each_packed(x, y, n, gelu_of); }

extern "C" __global__ void gelu_grad_naive(const T* __restrict__ gy, const T* __restrict__ x, T* __restrict__ gx, Index n) {
    each(gy, x, gx, n, gelu_grad_of);
}
extern "C" __global__ void gelu_grad(const T* __restrict__ gy, const T* __restrict__ x, T* __restrict__ gx, Index n) {
    each_packed(gy, x, gx, n, gelu_grad_of);
}

extern "C" __global__ void gelu_tanh_naive(const T* __restrict__ x, T* __restrict__ y, Index n) { each(x, y, n, gelu_tanh_of); }
extern "C" __global__ void gelu_tanh(const T* __restrict__ x, T* __restrict__ y, Index n) { each_packed(x, y, n, gelu_tanh_of); }

extern "C" __global__ void gelu_tanh_grad_naive(const T* __restrict__ gy, const T* __restrict__ x, T* __restrict__ gx, Index n) {
    each(gy, x, gx, n, gelu_tanh_grad_of);
}
extern "C" __global__ void gelu_tanh_grad(const T* __restrict__ gy, const T* __restrict__ x, T* __restrict__ gx, Index n) {
    each_packed(gy, x, gx, n, gelu_tanh_grad_of);
}
