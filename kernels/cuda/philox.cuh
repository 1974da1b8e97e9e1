// philox.cuh - Philox4x32-10 (Salmon et al. 2011): four random words from a counter and a key, nothing kept.
#pragma once
#include "common.cuh"

struct Words { unsigned w[4]; };

// The words number 4*counter .. 4*counter+3 of stream (seed, offset): the same bits as on the CPU.
__device__ __forceinline__ Words philox(unsigned long long seed, unsigned long long offset, unsigned long long counter) {
    unsigned c0 = (unsigned)counter, c1 = (unsigned)(counter >> 32), c2 = (unsigned)offset, c3 = (unsigned)(offset >> 32);
    unsigned k0 = (unsigned)seed, k1 = (unsigned)(seed >> 32);
#pragma unroll
    for (int round = 0; round < 10; round++) {
        const unsigned low0 = 0xD2511F53u * c0, high0 = __umulhi(0xD2511F53u, c0);
        const unsigned low1 = 0xCD9E8D57u * c2, high1 = __umulhi(0xCD9E8D57u, c2);
        c0 = high1 ^ c1 ^ k0; c1 = low1;
        c2 = high0 ^ c3 ^ k1; c3 = low0;
        k0 += 0x9E3779B9u; k1 += 0xBB67AE85u;                   // Weyl sequences: golden ratio, sqrt(3) - 1
    }
    return {{c0, c1, c2, c3}};
}
