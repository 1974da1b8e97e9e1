// embedding.cu - rows of a table, the gradient that adds rows back, and x[index] += values.
//
//   naive   additions are atomics: their order, and so the last bit, is another every time
//   cuda    positions come sorted by where they go (stably, by the launch), and one thread adds what goes to one place, in the order of
//           the positions.  No atomics, the same bits every time, and the table needs no zeros first.
// Neighbouring threads have neighbouring columns, so every access of a warp is one stretch of memory.
#include "common.cuh"

extern "C" __global__ void embedding(const T* __restrict__ weight, const Index* __restrict__ indices, T* __restrict__ y, Index n, int D) {
    GRID_STRIDE(i, n) y[i] = weight[indices[i / D] * D + i % D];
}

extern "C" __global__ void embedding_grad_naive(const T* __restrict__ gy, const Index* __restrict__ indices, A* gweight, Index n, int D) {
    GRID_STRIDE(i, n) atomicAdd(&gweight[indices[i / D] * D + i % D], A(gy[i]));
}

// Row r of the table gets the rows order[begins[r]] .. order[begins[r+1] - 1] of gy; n = rows * D.
extern "C" __global__ void embedding_grad(const T* __restrict__ gy, const Index* __restrict__ order, const Index* __restrict__ begins,
        T* __restrict__ gweight, Index n, int D) {
    GRID_STRIDE(i, n) {
        const Index row = i / D, d = i % D, end = begins[row + 1];
        A sum = 0;
        for (Index k = begins[row]; k < end; k++) sum += A(gy[order[k] * D + d]);
        gweight[i] = T(sum);
    }
}

// x[places[i]] += values[i]
extern "C" __global__ void add_at_naive(A* x, const Index* __restrict__ places, const T* __restrict__ values, Index n) {
    GRID_STRIDE(i, n) atomicAdd(&x[places[i]], A(values[i]));
}

// places: sorted; values[order[i]] goes to places[i].  The first position of a place adds for all of them.
extern "C" __global__ void add_at(T* x, const Index* __restrict__ places, const Index* __restrict__ order, const T* __restrict__ values,
        Index n) {
    GRID_STRIDE(i, n) {
        const Index place = places[i];
        if (i > 0 && places[i - 1] == place) continue;
        A sum = 0;
        for (Index k = i; k < n && places[k] == place; k++) sum += A(values[order[k]]);
        x[place] = T(A(x[place]) + sum);
    }
}
