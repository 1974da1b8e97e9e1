// sums.cu - sums over everything but the channels: the gradient of a bias.  Bound by memory: x passes once.
//
//   naive   a block a channel: it reads channels-last memory with a stride of C
//   cuda    channels last: rows of C are seen as longer rows, so that a warp reads 512 neighbouring bytes however few the channels
//           are; a block adds up a stretch of rows, each thread the columns of its 16 bytes.  Channels first: a block takes a channel
//           of some images.  Either way a second kernel adds what the blocks left, in double and in a fixed order: no atomics.
#include "packs.cuh"

constexpr int LANES = 8;                                        // rows that a block looks at together

extern "C" __global__ void channel_sum_naive(const T* __restrict__ x, T* __restrict__ y, Index rows, int C) {
    __shared__ A partial[32];
    A sum = 0;
    for (Index row = threadIdx.x; row < rows; row += blockDim.x) sum += A(x[row * C + blockIdx.x]);
    sum = block_sum(sum, partial);
    if (threadIdx.x == 0) y[blockIdx.x] = T(sum);
}

// x has n elements in rows of `wide`, a multiple of C and of PACK; the last row may be short.
extern "C" __global__ void __launch_bounds__(256, 2) channel_sum_rows(const T* __restrict__ x, A* __restrict__ partial, Index n, int wide,
        int rows_per_block) {
    __shared__ A shared[LANES][32 * PACK];
    const int column = (blockIdx.x * 32 + threadIdx.x) * PACK;
    const Index rows = (n + wide - 1) / wide, begin = (Index)blockIdx.y * rows_per_block;
    const Index end = begin + rows_per_block < rows ? begin + rows_per_block : rows;
    A sums[PACK];
#pragma unroll
    for (int e = 0; e < PACK; e++) sums[e] = A(0);
    if (column < wide) {
#pragma unroll 4
        for (Index row = begin + threadIdx.y; row < end; row += LANES) {
            const Index i = row * wide + column;
            if (i + PACK <= n) {
                const Pack v = *reinterpret_cast<const Pack*>(x + i);
#pragma unroll
                for (int e = 0; e < PACK; e++) sums[e] += A(v.v[e]);
            } else {
#pragma unroll
                for (int e = 0; e < PACK; e++)
                    if (i + e < n) sums[e] += A(x[i + e]);
            }
        }
    }
#pragma unroll
    for (int e = 0; e < PACK; e++) shared[threadIdx.y][threadIdx.x * PACK + e] = sums[e];
#ifndef BUG_NO_BARRIER_BEFORE_ADDING
    __syncthreads();
#endif
    for (int e = threadIdx.y * 32 + threadIdx.x; e < 32 * PACK; e += 256) {
        A sum = 0;
#pragma unroll
        for (int lane = 0; lane < LANES; lane++) sum += shared[lane][e];
        if (blockIdx.x * 32 * PACK + e < wide) partial[(Index)blockIdx.y * wide + blockIdx.x * 32 * PACK + e] = sum;
    }
}

// x (images, C, plane): block (c, part) adds channel c of its images.
extern "C" __global__ void channel_sum_planes(const T* __restrict__ x, A* __restrict__ partial, Index images, int C, Index plane,
        Index images_per_block) {
    __shared__ A joined[32];
    const Index begin = blockIdx.y * images_per_block, end = begin + images_per_block < images ? begin + images_per_block : images;
    A sum = 0;
    for (Index image = begin; image < end; image++) {
        const T* own = x + (image * C + blockIdx.x) * plane;
        for (Index i = threadIdx.x; i < plane; i += blockDim.x) sum += A(own[i]);
    }
    sum = block_sum(sum, joined);
    if (threadIdx.x == 0) partial[(Index)blockIdx.y * C + blockIdx.x] = sum;
}

// y[c] = the sum of partial[part][c], [c + C], [c + 2C] ... over all parts: a warp a channel.
extern "C" __global__ void channel_sum_join(const A* __restrict__ partial, T* __restrict__ y, int C, int wide, int parts) {
    const int lane = threadIdx.x & 31, folds = wide / C;
    for (int c = blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5); c < C; c += gridDim.x * (blockDim.x >> 5)) {
        double sum = 0;
        for (Index i = lane; i < (Index)parts * folds; i += 32) sum += double(partial[i * C + c]);
        sum = warp_sum(sum);
        if (lane == 0) y[c] = T(A(sum));
    }
}
