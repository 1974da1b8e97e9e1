// common.cuh - what every kernel here begins with.
//
// A kernel is compiled once for each dtype: T is the type of its arrays, A the type that it computes and adds in.
//   -DVALUE=float -DACCUMULATE=float   VALUE=double ACCUMULATE=double   VALUE=__half ACCUMULATE=float   VALUE=__nv_bfloat16 ...
// Arrays are contiguous; maps are channels-last, (N, H, W, C) in memory.  The caller allocates what is written.
#pragma once

#ifndef MINIDL_EMULATOR
#ifdef MINIDL_HALF
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif
#define DYNAMIC_SHARED(T, name)                                      \
    extern __shared__ __align__(16) unsigned char dynamic_shared_[]; \
    T* name = reinterpret_cast<T*>(dynamic_shared_)
#endif

typedef VALUE T;
typedef ACCUMULATE A;
typedef long long Index;                      // of an element: arrays may have more than 2^31

// Every thread takes the elements i, i + all threads, ...: any grid covers any size, and neighbours read neighbours.
#define GRID_STRIDE(i, n)                                                                    \
    for (Index i = (Index)blockIdx.x * blockDim.x + threadIdx.x, step_ = (Index)gridDim.x * blockDim.x; i < (n); i += step_)

template <class V> __device__ __forceinline__ V warp_sum(V v) {              // every lane gets the sum
#pragma unroll
    for (int bits = 16; bits; bits >>= 1) v += __shfl_xor_sync(0xffffffffu, v, bits);
    return v;
}
template <class V> __device__ __forceinline__ V warp_max(V v) {
#pragma unroll
    for (int bits = 16; bits; bits >>= 1) {
        const V other = __shfl_xor_sync(0xffffffffu, v, bits);
        v = other > v || other != other ? other : v;                          // NaN wins
    }
    return v;
}

// The sum over a block whose size is a multiple of 32; every thread gets it.  `partial` has 32 places in shared memory.
// The order of additions depends on the size of the block alone: the same bits every time.
template <class V> __device__ __forceinline__ V block_sum(V v, V* partial) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    v = warp_sum(v);
    if (lane == 0) partial[warp] = v;
#ifndef BUG_NO_BARRIER_BEFORE_READING
    __syncthreads();
#endif
    v = lane < warps ? partial[lane] : V(0);
    v = warp_sum(v);
#ifndef BUG_NO_BARRIER_BEFORE_REUSE
    __syncthreads();                          // partial may be written again
#endif
    return v;
}
template <class V> __device__ __forceinline__ V block_max(V v, V* partial) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    v = warp_max(v);
    if (lane == 0) partial[warp] = v;
    __syncthreads();
    v = partial[lane < warps ? lane : 0];
    v = warp_max(v);
    __syncthreads();
    return v;
}

__device__ __forceinline__ float exponential(float x) { return expf(x); }
__device__ __forceinline__ double exponential(double x) { return exp(x); }
__device__ __forceinline__ float logarithm(float x) { return logf(x); }
__device__ __forceinline__ double logarithm(double x) { return log(x); }
__device__ __forceinline__ float square_root(float x) { return sqrtf(x); }
__device__ __forceinline__ double square_root(double x) { return sqrt(x); }
__device__ __forceinline__ float power(float x, float y) { return powf(x, y); }
__device__ __forceinline__ double power(double x, double y) { return pow(x, y); }
