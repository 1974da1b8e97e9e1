// conv_wide.cu - conv_mma.cu with larger tiles, for wide layers.
//
//   tensor, wide  a block's tile is 128 x 128 by 8 warps of 64 x 32: a number that was brought to shared memory is used 128 times, not 64,
//                 and a fragment in registers 4 times, not 2 to 4; four slabs of 16 KB in dynamic shared memory.  Half as much is read per
//                 product; it needs enough tiles to fill the GPU.
#include "tensor_tile.cuh"
#include "conv_products.cuh"

typedef Tile<OnTensorCores, 128, 128, 2, 4, 4, 16> Wide;
constexpr int WEIGHT_BLOCKS = sizeof(T) == 2 ? 2 : 1;           // TF32 has no transposing ldmatrix, and needs more registers than 128

// Grid: (tiles of pixels * tiles of a group's filters, 1, groups * parts); partial (parts, N, oh, ow, O), or null if there is one part.
extern "C" __global__ void __launch_bounds__(256, 2) conv_tensor_wide(const T* __restrict__ x, const T* __restrict__ w,
        const T* __restrict__ b, T* __restrict__ y, float* __restrict__ partial, int parts, int pixels, int C, int H, int W, int O, int kh, int kw,
        int sh, int sw, int top, int left, int dh, int dw, int groups, int oh, int ow, int relu) {
    DYNAMIC_SHARED(unsigned char, shared);
    forward<Wide>(shared, x, w, b, y, partial, parts, pixels, C, H, W, O, kh, kw, sh, sw, top, left, dh, dw, groups, oh, ow, relu);
}

// Grid: (tiles of a phase's pixels * tiles of a group's channels, 1, groups * phases * parts); partial (parts, N, H, W, C), or null.
extern "C" __global__ void __launch_bounds__(256, 2) conv_input_grad_tensor_wide(const T* __restrict__ gy, const T* __restrict__ w,
        T* __restrict__ gx, float* __restrict__ partial, int parts, int images, int C, int H, int W, int O, int kh, int kw, int sh, int sw,
        int top, int left, int dh, int dw, int groups, int oh, int ow) {
    DYNAMIC_SHARED(unsigned char, shared);
    backward<Wide>(shared, gy, w, gx, partial, parts, images, C, H, W, O, kh, kw, sh, sw, top, left, dh, dw, groups, oh, ow);
}

// Grid: (tiles of a group's filters, tiles of taps and channels, groups * parts); partial (parts, O, kh, kw, C/groups).
extern "C" __global__ void __launch_bounds__(256, WEIGHT_BLOCKS) conv_weight_grad_tensor_wide(const T* __restrict__ gy, const T* __restrict__ x,
        float* __restrict__ partial, int pixels, int pixels_per_part, int C, int H, int W, int O, int kh, int kw, int sh, int sw, int top,
        int left, int dh, int dw, int groups, int oh, int ow) {
    DYNAMIC_SHARED(unsigned char, shared);
    weights<Wide>(shared, gy, x, partial, pixels, pixels_per_part, C, H, W, O, kh, kw, sh, sw, top, left, dh, dw, groups, oh, ow);
}
