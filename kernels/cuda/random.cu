// random.cu - uniform and normal numbers of stream (seed, offset): those of the CPU, uniform ones to the bit.
//
//   naive   a thread a number: each draws four words and uses one or two
//   cuda    a thread four words: all are used
#include "philox.cuh"

// Numbers of a counter's four words, and the k-th of them in [0, 1): as many bits as T has, exact and below 1.
constexpr int NUMBERS = sizeof(T) == 8 ? 2 : 4;
__device__ __forceinline__ A uniform_of(const Words& drawn, int k, int bits) {
    if (sizeof(A) == 8) return A((double(drawn.w[2 * k] >> 5) * 67108864.0 + double(drawn.w[2 * k + 1] >> 6)) * 1.1102230246251565e-16);
    return A(drawn.w[k] >> (32 - bits)) * A(1.0 / (1 << bits));
}
constexpr int BITS = sizeof(T) == 2 ? 11 : 24;                  // of a number that is kept; normal ones are made of 24

__device__ __forceinline__ float cosine(float x) { return cosf(x); }
__device__ __forceinline__ double cosine(double x) { return cos(x); }
__device__ __forceinline__ float sine(float x) { return sinf(x); }
__device__ __forceinline__ double sine(double x) { return sin(x); }
__device__ __forceinline__ float logarithm1p(float x) { return log1pf(x); }
__device__ __forceinline__ double logarithm1p(double x) { return log1p(x); }

// Box and Muller 1958: numbers 2k and 2k+1 from the pair of uniforms u, v.
struct Pair { A first, second; };
__device__ __forceinline__ Pair normal_of(const Words& drawn, int k) {
    const A radius = square_root(A(-2) * logarithm1p(-uniform_of(drawn, 2 * k, 24)));
    const A angle = uniform_of(drawn, 2 * k + 1, 24) * A(6.283185307179586477);
    return {radius * cosine(angle), radius * sine(angle)};
}

extern "C" __global__ void uniform_naive(T* __restrict__ y, Index n, unsigned long long seed, unsigned long long offset) {
    GRID_STRIDE(i, n) y[i] = T(uniform_of(philox(seed, offset, i / NUMBERS), i % NUMBERS, BITS));
}
extern "C" __global__ void uniform(T* __restrict__ y, Index n, unsigned long long seed, unsigned long long offset) {
    GRID_STRIDE(counter, (n + NUMBERS - 1) / NUMBERS) {
        const Words drawn = philox(seed, offset, counter);
#pragma unroll
        for (int k = 0; k < NUMBERS; k++)
            if (counter * NUMBERS + k < n) y[counter * NUMBERS + k] = T(uniform_of(drawn, k, BITS));
    }
}

extern "C" __global__ void normal_naive(T* __restrict__ y, Index n, unsigned long long seed, unsigned long long offset) {
    GRID_STRIDE(i, n) {
        const Pair pair = normal_of(philox(seed, offset, i / NUMBERS), i % NUMBERS / 2);
        y[i] = T(i % 2 ? pair.second : pair.first);
    }
}
extern "C" __global__ void normal(T* __restrict__ y, Index n, unsigned long long seed, unsigned long long offset) {
    GRID_STRIDE(counter, (n + NUMBERS - 1) / NUMBERS) {
        const Words drawn = philox(seed, offset, counter);
#pragma unroll
        for (int k = 0; k < NUMBERS / 2; k++) {
            const Pair pair = normal_of(drawn, k);
            const Index i = counter * NUMBERS + 2 * k;
            if (i < n) y[i] = T(pair.first);
            if (i + 1 < n) y[i + 1] = T(pair.second);
        }
    }
}
