// conv_fma.cu - convolution and its gradients for float32 that stays float32, channels last.  sm_80 and later, for its asynchronous copies.
//
//   Arrays as in conv_mma.cu.
//
//   pipelined  the products of conv_mma.cu on the ordinary units: the same copies, slabs, parts and phases of strides.  Against conv.cu:
//              three or four slabs are on their way where that one waits for each; places of taps are carried, not divided out; a thread
//              has 8 x 4 or 8 x 8 sums, and reads 16 bytes of shared memory for 10 or 16 products, against 4 for 2.
#include "fma_tile.cuh"
#include "conv_products.cuh"

typedef Tile<OnFmaUnits, 64, 64, 2, 2, 3, 16> Small;            // 128 threads of 8 x 4 sums
typedef Tile<OnFmaUnits, 128, 128, 4, 2, 4, 16> Wide;           // 256 threads of 8 x 8
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
constexpr int FORWARD_BLOCKS = 1;                               // two would leave 128 registers, of which ptxas spills some there
#else
constexpr int FORWARD_BLOCKS = 2;
#endif

// Grid: (tiles of pixels * tiles of a group's filters, 1, groups * parts); partial (parts, N, oh, ow, O), or null if there is one part.
extern "C" __global__ void __launch_bounds__(128, 3) conv_fma(const T* __restrict__ x, const T* __restrict__ w,
        const T* __restrict__ b, T* __restrict__ y, float* __restrict__ partial, int parts, int pixels, int C, int H, int W, int O, int kh, int kw,
        int sh, int sw, int top, int left, int dh, int dw, int groups, int oh, int ow, int relu) {
    __shared__ __align__(128) unsigned char shared[Small::BYTES];
    forward<Small>(shared, x, w, b, y, partial, parts, pixels, C, H, W, O, kh, kw, sh, sw, top, left, dh, dw, groups, oh, ow, relu);
}

// Grid: (tiles of a phase's pixels * tiles of a group's channels, 1, groups * phases * parts); partial (parts, N, H, W, C), or null.
extern "C" __global__ void __launch_bounds__(128, 3) conv_input_grad_fma(const T* __restrict__ gy, const T* __restrict__ w,
        T* __restrict__ gx, float* __restrict__ partial, int parts, int images, int C, int H, int W, int O, int kh, int kw, int sh, int sw,
        int top, int left, int dh, int dw, int groups, int oh, int ow) {
    __shared__ __align__(128) unsigned char shared[Small::BYTES];
    backward<Small>(shared, gy, w, gx, partial, parts, images, C, H, W, O, kh, kw, sh, sw, top, left, dh, dw, groups, oh, ow);
}

// Grid: (tiles of a group's filters, tiles of taps and channels, groups * parts); partial (parts, O, kh, kw, C/groups).
extern "C" __global__ void __launch_bounds__(128, 3) conv_weight_grad_fma(const T* __restrict__ gy, const T* __restrict__ x,
        float* __restrict__ partial, int pixels, int pixels_per_part, int C, int H, int W, int O, int kh, int kw, int sh, int sw, int top,
        int left, int dh, int dw, int groups, int oh, int ow) {
    __shared__ __align__(128) unsigned char shared[Small::BYTES];
    weights<Small>(shared, gy, x, partial, pixels, pixels_per_part, C, H, W, O, kh, kw, sh, sw, top, left, dh, dw, groups, oh, ow);
}

// ---- larger tiles: the same grids and arrays ----------------------------------------------------------------------------

extern "C" __global__ void __launch_bounds__(256, FORWARD_BLOCKS) conv_fma_wide(const T* __restrict__ x, const T* __restrict__ w,
        const T* __restrict__ b, T* __restrict__ y, float* __restrict__ partial, int parts, int pixels, int C, int H, int W, int O, int kh, int kw,
        int sh, int sw, int top, int left, int dh, int dw, int groups, int oh, int ow, int relu) {
    DYNAMIC_SHARED(unsigned char, shared);
    forward<Wide>(shared, x, w, b, y, partial, parts, pixels, C, H, W, O, kh, kw, sh, sw, top, left, dh, dw, groups, oh, ow, relu);
}

extern "C" __global__ void __launch_bounds__(256, 2) conv_input_grad_fma_wide(const T* __restrict__ gy, const T* __restrict__ w,
        T* __restrict__ gx, float* __restrict__ partial, int parts, int images, int C, int H, int W, int O, int kh, int kw, int sh, int sw,
        int top, int left, int dh, int dw, int groups, int oh, int ow) {
    DYNAMIC_SHARED(unsigned char, shared);
    backward<Wide>(shared, gy, w, gx, partial, parts, images, C, H, W, O, kh, kw, sh, sw, top, left, dh, dw, groups, oh, ow);
}

extern "C" __global__ void __launch_bounds__(256, 2) conv_weight_grad_fma_wide(const T* __restrict__ gy, const T* __restrict__ x,
        float* __restrict__ partial, int pixels, int pixels_per_part, int C, int H, int W, int O, int kh, int kw, int sh, int sw, int top,
        int left, int dh, int dw, int groups, int oh, int ow) {
    DYNAMIC_SHARED(unsigned char, shared);
    weights<Wide>(shared, gy, x, partial, pixels, pixels_per_part, C, H, W, O, kh, kw, sh, sw, top, left, dh, dw, groups, oh, ow);
}
