// lists.cu - what is done to all arrays of a list at once: moving averages, scaling, the sum of squares.  Bound by memory.
//
//   naive   a launch an array: a net of a hundred small ones waits for a hundred launches
//   cuda    one launch for all: the arrays are cut into chunks of a table (optim.py makes it), and block i does chunk i
// Both are the kernels below; the naive variant gives each launch the table of one array.
#include "common.cuh"

struct Chunk { T* a; const T* b; int n; };

__device__ __forceinline__ Chunk chunk_of(const unsigned long long* table, int number) {
    const unsigned long long* row = table + (Index)number * 6;
    return {reinterpret_cast<T*>(row[0]), reinterpret_cast<const T*>(row[1]), (int)row[4]};
}

// a = decay * a + (1 - decay) * b
extern "C" __global__ void ema(const unsigned long long* __restrict__ table, double decay) {
    const Chunk k = chunk_of(table, blockIdx.x);
    const A keep = A(decay), take = A(1 - decay);
    for (int i = threadIdx.x; i < k.n; i += blockDim.x) k.a[i] = T(keep * A(k.a[i]) + take * A(k.b[i]));
}

extern "C" __global__ void scale(const unsigned long long* __restrict__ table, A factor) {
    const Chunk k = chunk_of(table, blockIdx.x);
    for (int i = threadIdx.x; i < k.n; i += blockDim.x) k.a[i] = T(A(k.a[i]) * factor);
}

// partial[i]: the sum of squares of chunk i.
extern "C" __global__ void square_sum(const unsigned long long* __restrict__ table, double* __restrict__ partial) {
    __shared__ double joined[32];
    const Chunk k = chunk_of(table, blockIdx.x);
    A sum = 0;
    for (int i = threadIdx.x; i < k.n; i += blockDim.x) sum += A(k.a[i]) * A(k.a[i]);
    const double total = block_sum(double(sum), joined);
    if (threadIdx.x == 0) partial[blockIdx.x] = total;
}

// y = the sum of them all, by one block: in the same order every time.
extern "C" __global__ void square_sum_join(const double* __restrict__ partial, A* __restrict__ y, int parts) {
    __shared__ double joined[32];
    double sum = 0;
    for (int i = threadIdx.x; i < parts; i += blockDim.x) sum += partial[i];
    sum = block_sum(sum, joined);
    if (threadIdx.x == 0) *y = A(sum);
}
