// dropout.cu - random words and dropout.  The mask is a function of (seed, offset) and the position: nothing is kept for backward.
//
//   naive   a thread an element: each draws four words and uses one
//   cuda    a thread four elements: every word is used
#include "philox.cuh"

extern "C" __global__ void philox_bits(unsigned* __restrict__ words, Index n, unsigned long long seed, unsigned long long offset) {
    GRID_STRIDE(counter, (n + 3) / 4) {
        const Words drawn = philox(seed, offset, counter);
        for (int k = 0; k < 4 && counter * 4 + k < n; k++) words[counter * 4 + k] = drawn.w[k];
    }
}

// y = x / (1-p) where the word is at least threshold = round(p * 2^32), else 0.  x is null where the mask itself is asked for.
// live is null, or has (seed, offset) in device memory, where a CUDA graph finds another key at each replay.
extern "C" __global__ void dropout_naive(const T* __restrict__ x, T* __restrict__ y, Index n, unsigned threshold, A scale,
        const unsigned long long* __restrict__ live, unsigned long long seed, unsigned long long offset) {
    if (live) { seed = live[0]; offset = live[1]; }
    GRID_STRIDE(i, n) {
        const A mask = philox(seed, offset, i / 4).w[i % 4] >= threshold ? scale : A(0);
        y[i] = T(x ? A(x[i]) * mask : mask);
    }
}

extern "C" __global__ void dropout(const T* __restrict__ x, T* __restrict__ y, Index n, unsigned threshold, A scale,
        const unsigned long long* __restrict__ live, unsigned long long seed, unsigned long long offset) {
    if (live) { seed = live[0]; offset = live[1]; }
    GRID_STRIDE(counter, (n + 3) / 4) {
        const Words drawn = philox(seed, offset, counter);
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const Index i = counter * 4 + k;
            if (i >= n) break;
            const A mask = drawn.w[k] >= threshold ? scale : A(0);
            y[i] = T(x ? A(x[i]) * mask : mask);                // a product: a dropped infinity is NaN, as on the CPU
        }
    }
}
