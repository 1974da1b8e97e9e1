// fragments.cu - one product of a warp, its registers as given: what test_tensor_cores.py holds to the PTX manual's tables.
#include "mma.cuh"

extern "C" __global__ void product(const unsigned* __restrict__ a, const unsigned* __restrict__ b, float* __restrict__ d) {
    const int lane = threadIdx.x;
    const unsigned fragment[4] = {a[lane * 4], a[lane * 4 + 1], a[lane * 4 + 2], a[lane * 4 + 3]};
    float sums[4] = {};
    multiply(sums, fragment, b[lane * 2], b[lane * 2 + 1], T());
    for (int i = 0; i < 4; i++) d[lane * 4 + i] = sums[i];
}
