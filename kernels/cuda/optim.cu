// optim.cu - one step of an optimiser over many parameters, in place.
//
//   naive   a launch a parameter: a net of a hundred small ones waits for a hundred launches
//   cuda    one launch for all: the parameters are cut into chunks of a table, and block i does chunk i
// Both are the kernels below; the naive variant gives each launch the table of one parameter.
// `live` is null, or has the numbers of the step in device memory, where a CUDA graph finds new ones at each replay.
// The formulas are PyTorch's (torch.optim), with weight decay added to the gradient or, decoupled, taken from the parameter.
#include "common.cuh"

struct Chunk { T* p; const T* g; T* a; T* b; int n; bool fresh; };     // a, b: the states, or null

// Row `number` of the table: four addresses, how many elements, whether state a is still without a value.
__device__ __forceinline__ Chunk chunk_of(const unsigned long long* table, int number) {
    const unsigned long long* row = table + (Index)number * 6;
    return {reinterpret_cast<T*>(row[0]), reinterpret_cast<const T*>(row[1]), reinterpret_cast<T*>(row[2]), reinterpret_cast<T*>(row[3]),
            (int)row[4], row[5] != 0};
}

// live: lr, momentum, dampening, weight_decay.
extern "C" __global__ void sgd(const unsigned long long* __restrict__ table, const double* __restrict__ live, A lr, A momentum, A dampening,
        A weight_decay, int nesterov, int maximize) {
    if (live) { lr = A(live[0]); momentum = A(live[1]); dampening = A(live[2]); weight_decay = A(live[3]); }
    const Chunk k = chunk_of(table, blockIdx.x);
    for (int i = threadIdx.x; i < k.n; i += blockDim.x) {
        const A p = A(k.p[i]);
        A g = maximize ? -A(k.g[i]) : A(k.g[i]);
        g += weight_decay * p;
        if (k.a) {
            const A v = k.fresh ? g : momentum * A(k.a[i]) + (A(1) - dampening) * g;
            k.a[i] = T(v);
            g = nesterov ? g + momentum * v : v;
        }
        k.p[i] = T(p - lr * g);
    }
}

// step_size = lr / (1 - beta1^t) and root = sqrt(1 - beta2^t), by the caller in double.
// live: lr, step_size, beta1, beta2, root, eps, weight_decay.
extern "C" __global__ void adam(const unsigned long long* __restrict__ table, const double* __restrict__ live, A lr, A step_size, A beta1,
        A beta2, A root, A eps, A weight_decay, int decoupled, int maximize) {
    if (live) {
        lr = A(live[0]); step_size = A(live[1]); beta1 = A(live[2]); beta2 = A(live[3]); root = A(live[4]); eps = A(live[5]);
        weight_decay = A(live[6]);
    }
    const Chunk k = chunk_of(table, blockIdx.x);
    for (int i = threadIdx.x; i < k.n; i += blockDim.x) {
        A p = A(k.p[i]), g = maximize ? -A(k.g[i]) : A(k.g[i]);
        if (decoupled) p -= lr * weight_decay * p; else g += weight_decay * p;
        const A m = A(k.a[i]) + (A(1) - beta1) * (g - A(k.a[i])), v = beta2 * A(k.b[i]) + (A(1) - beta2) * g * g;
        k.a[i] = T(m);
        k.b[i] = T(v);
        k.p[i] = T(p - step_size * m / (square_root(v) / root + eps));
    }
}
