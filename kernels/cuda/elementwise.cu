// elementwise.cu - ReLU, its gradient, addition.  Bound by memory: 2 or 3 arrays pass, nothing is computed.
//
//   naive   a thread an element
//   cuda    four elements of a thread in one 16-byte access (8 of a 16-bit type): a quarter of the instructions per byte
#include "common.cuh"

struct alignas(16) Pack { T v[16 / sizeof(T)]; };
constexpr int PACK = 16 / sizeof(T);

__device__ __forceinline__ T relu_of(T x) { return A(x) < A(0) ? T(0) : x; }               // NaN < 0 is false: NaN stays
__device__ __forceinline__ T relu_grad_of(T gy, T y) { return A(y) > A(0) ? gy : T(0); }
__device__ __forceinline__ T add_of(T a, T b) { return T(A(a) + A(b)); }

extern "C" __global__ void relu_naive(const T* __restrict__ x, T* __restrict__ y, Index n) {
    GRID_STRIDE(i, n) y[i] = relu_of(x[i]);
}
extern "C" __global__ void relu_grad_naive(const T* __restrict__ gy, const T* __restrict__ y, T* __restrict__ gx, Index n) {
    GRID_STRIDE(i, n) gx[i] = relu_grad_of(gy[i], y[i]);
}
extern "C" __global__ void add_naive(const T* __restrict__ a, const T* __restrict__ b, T* __restrict__ y, Index n) {
    GRID_STRIDE(i, n) y[i] = add_of(a[i], b[i]);
}

// The last n % PACK elements are left to the first threads.
#define PACKED(ONE_PACK, ONE_ELEMENT)                                                        \
    GRID_STRIDE(p, n / PACK) { ONE_PACK }                                                     \
    const Index rest = n / PACK * PACK + (Index)blockIdx.x * blockDim.x + threadIdx.x;        \
    if (rest < n) { const Index i = rest; ONE_ELEMENT }

extern "C" __global__ void relu(const T* __restrict__ x, T* __restrict__ y, Index n) {
    PACKED(Pack v = reinterpret_cast<const Pack*>(x)[p];
           for (int e = 0; e < PACK; e++) v.v[e] = relu_of(v.v[e]);
           reinterpret_cast<Pack*>(y)[p] = v;,
           y[i] = relu_of(x[i]);)
}
extern "C" __global__ void relu_grad(const T* __restrict__ gy, const T* __restrict__ y, T* __restrict__ gx, Index n) {
    PACKED(Pack g = reinterpret_cast<const Pack*>(gy)[p]; const Pack v = reinterpret_cast<const Pack*>(y)[p];
           for (int e = 0; e < PACK; e++) g.v[e] = relu_grad_of(g.v[e], v.v[e]);
           reinterpret_cast<Pack*>(gx)[p] = g;,
           gx[i] = relu_grad_of(gy[i], y[i]);)
}
extern "C" __global__ void add(const T* __restrict__ a, const T* __restrict__ b, T* __restrict__ y, Index n) {
    PACKED(Pack u = reinterpret_cast<const Pack*>(a)[p]; const Pack v = reinterpret_cast<const Pack*>(b)[p];
           for (int e = 0; e < PACK; e++) u.v[e] = add_of(u.v[e], v.v[e]);
           reinterpret_cast<Pack*>(y)[p] = u;,
           y[i] = add_of(a[i], b[i]);)
}
