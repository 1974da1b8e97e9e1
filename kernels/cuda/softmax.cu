// softmax.cu - softmax and log-softmax over the last axis of rows (rows, D), their gradients, and cross-entropy of class indices.
//
//   naive   a thread a row: neighbouring threads read D elements apart, so every access is its own piece of memory
//   cuda    a warp a row: lanes read neighbours; maximum and sum are joined with shuffles.  The second and third reading of the row
//           come from the cache.
// Cross-entropy reads the logits once more rather than write probabilities: forward leaves a loss a row, backward writes the gradient.
#include "common.cuh"

struct Row { A top, total; };                                   // largest element, and the sum of exp(x - top)

// By the calling thread alone (step 1) or by a warp (step 32, all lanes get the result).
__device__ __forceinline__ Row measure(const T* __restrict__ x, int first, int step, int D) {
    A top = A(x[first < D ? first : 0]);
    for (int d = first; d < D; d += step) {
        const A value = A(x[d]);
        top = value > top || value != value ? value : top;
    }
    if (step > 1) top = warp_max(top);
    A total = 0;
    for (int d = first; d < D; d += step) total += exponential(A(x[d]) - top);
    if (step > 1) total = warp_sum(total);
    return {top, total};
}

#define WARP_PER_ROW(row, rows)                                                               \
    const int lane = threadIdx.x & 31;                                                        \
    for (Index row = (Index)blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5), step_ = (Index)gridDim.x * (blockDim.x >> 5); \
         row < (rows); row += step_)

extern "C" __global__ void softmax_naive(const T* __restrict__ x, T* __restrict__ y, Index rows, int D, int log) {
    GRID_STRIDE(row, rows) {
        const Row r = measure(x + row * D, 0, 1, D);
        for (int d = 0; d < D; d++) {
            const A below = A(x[row * D + d]) - r.top;
            y[row * D + d] = T(log ? below - logarithm(r.total) : exponential(below) / r.total);
        }
    }
}

extern "C" __global__ void softmax(const T* __restrict__ x, T* __restrict__ y, Index rows, int D, int log) {
    WARP_PER_ROW(row, rows) {
        const Row r = measure(x + row * D, lane, 32, D);
        for (int d = lane; d < D; d += 32) {
            const A below = A(x[row * D + d]) - r.top;
            y[row * D + d] = T(log ? below - logarithm(r.total) : exponential(below) / r.total);
        }
    }
}

// softmax: y * (gy - sum(gy * y));  log: gy - exp(y) * sum(gy)
extern "C" __global__ void softmax_grad(const T* __restrict__ gy, const T* __restrict__ y, T* __restrict__ gx, Index rows, int D, int log) {
    WARP_PER_ROW(row, rows) {
        A sum = 0;
        for (int d = lane; d < D; d += 32) sum += A(gy[row * D + d]) * (log ? A(1) : A(y[row * D + d]));
        sum = warp_sum(sum);
        for (int d = lane; d < D; d += 32) {
            const A g = A(gy[row * D + d]), value = A(y[row * D + d]);
            gx[row * D + d] = T(log ? g - exponential(value) * sum : value * (g - sum));
        }
    }
}

// A label that is no class is read from nowhere: its loss and gradients are NaN.  Callers look for one before, but not in a CUDA graph.
__device__ __forceinline__ bool is_class(Index label, int D) { return label >= 0 && label < D; }

// losses[m] = -(1-e)*weight[t]*logp[t] - e/D * sum of weight[c]*logp[c]; 0 where t is to be ignored.  weight may be null.
extern "C" __global__ void softmax_cross_entropy(const T* __restrict__ x, const Index* __restrict__ labels, const T* __restrict__ weight,
        T* __restrict__ losses, T* __restrict__ sample_weights, Index rows, int D, Index ignore, A smoothing) {
    WARP_PER_ROW(row, rows) {
        const Index label = labels[row];
        const T* r = x + row * D;
        const Row m = measure(r, lane, 32, D);
        const A log_total = logarithm(m.total);
        A everywhere = 0;
        if (smoothing > A(0)) {
            for (int d = lane; d < D; d += 32) everywhere += (log_total - (A(r[d]) - m.top)) * (weight ? A(weight[d]) : A(1));
            everywhere = warp_sum(everywhere);
        }
        if (lane == 0) {
            const bool counted = label != ignore, known = is_class(label, D);
            const A own = counted ? (weight && known ? A(weight[label]) : A(1)) : A(0);
            const A at_label = known ? log_total - (A(r[label]) - m.top) : A(nanf(""));
            losses[row] = T(counted ? at_label * own * (A(1) - smoothing) + everywhere * smoothing / A(D) : A(0));
            sample_weights[row] = T(own);
        }
    }
}

extern "C" __global__ void softmax_cross_entropy_grad(const T* __restrict__ g, const T* __restrict__ x, const Index* __restrict__ labels,
        const T* __restrict__ weight, T* __restrict__ gx, Index rows, int D, Index ignore, A smoothing) {
    WARP_PER_ROW(row, rows) {
        const Index label = labels[row];
        const bool counted = label != ignore, known = is_class(label, D);
        const Row m = measure(x + row * D, lane, 32, D);
        A all = 0;                                              // the sum of the target distribution, times its weights
        if (smoothing > A(0)) {
            for (int d = lane; d < D; d += 32) all += weight ? A(weight[d]) : A(1);
            all = warp_sum(all) * smoothing / A(D);
        }
        const A at_label = !known ? A(nanf("")) : weight ? A(weight[label]) : A(1);
        const A own = counted ? at_label * (A(1) - smoothing) : A(0);
        all += own;
        for (int d = lane; d < D; d += 32) {
            const A p = exponential(A(x[row * D + d]) - m.top) / m.total;
            const A target = (d == label ? own : A(0)) + (smoothing > A(0) ? (weight ? A(weight[d]) : A(1)) * smoothing / A(D) : A(0));
            gx[row * D + d] = T(counted ? A(g[row]) * (p * all - target) : A(0));
        }
    }
}
