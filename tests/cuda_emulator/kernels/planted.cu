// planted.cu - kernels with one mistake each, which the emulator or a sanitizer must find; and their correct twins.
#include "common.cuh"

// Each thread doubles the element of its neighbour in the block.
extern "C" __global__ void neighbour(const float* __restrict__ x, float* __restrict__ y, int wrong) {
    __shared__ float shared[64];
    shared[threadIdx.x] = x[threadIdx.x];
    if (!wrong) __syncthreads();
    y[threadIdx.x] = 2 * shared[(threadIdx.x + 33) % 64];
}

extern "C" __global__ void divergent_barrier(float* y, int wrong) {
    if (!wrong || threadIdx.x < 32) __syncthreads();
    else { __syncthreads(); }                                   // another barrier in the text: undefined on a GPU
    y[threadIdx.x] = 1;
}

extern "C" __global__ void barrier_not_reached(float* y, int wrong) {
    if (!wrong || threadIdx.x < 32) { __syncthreads(); y[threadIdx.x] = 1; }
    else { y[threadIdx.x] = __shfl_sync(0xffffffffu, 1.f, 0); if (threadIdx.x == 33) __syncthreads(); }
}

extern "C" __global__ void uninitialised(float* y, int wrong) {
    __shared__ float shared[64];
    if (!wrong || threadIdx.x < 63) shared[threadIdx.x] = 1;
    __syncthreads();
    y[threadIdx.x] = shared[63 - threadIdx.x];
}

extern "C" __global__ void shuffle_mask(float* y, int wrong) {
    const unsigned mask = wrong ? 0x0000ffffu : 0xffffffffu;    // lanes 16.. call without being in the mask
    y[threadIdx.x] = __shfl_xor_sync(mask, (float)threadIdx.x, 1);
}

extern "C" __global__ void half_warp(float* y, int wrong) {
    if (!wrong || threadIdx.x < 16) y[threadIdx.x] = __shfl_xor_sync(0xffffffffu, (float)threadIdx.x, 1);
}

extern "C" __global__ void past_shared(float* y, int wrong) {
    __shared__ float shared[64];
    shared[threadIdx.x + (wrong ? 1 : 0)] = 1;
    __syncthreads();
    y[threadIdx.x] = shared[threadIdx.x];
}

extern "C" __global__ void past_dynamic(float* y, int wrong) {
    DYNAMIC_SHARED(float, shared);
    shared[threadIdx.x + (wrong ? 1 : 0)] = 1;
    __syncthreads();
    y[threadIdx.x] = shared[threadIdx.x];
}

extern "C" __global__ void misaligned(const float* __restrict__ x, float* __restrict__ y, int wrong) {
    const float4 v = *reinterpret_cast<const float4*>(x + (wrong ? 1 : 0));
    y[threadIdx.x] = v.x;
}

extern "C" __global__ void race_between_blocks(float* y, int wrong) {
    if (wrong || blockIdx.x == 0) y[threadIdx.x] = 1;           // every block writes the same places
}

extern "C" __global__ void count(int* y, int wrong) {
    if (wrong) y[0] += 1; else atomicAdd(y, 1);
}

extern "C" __global__ void index_overflow(float* y, int wrong) {
    const int far = 0x7fffffff;
    y[threadIdx.x] = wrong ? (float)(far + (int)threadIdx.x) : (float)((Index)far + threadIdx.x);
}
