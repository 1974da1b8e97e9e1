// conv_mma.cu - convolution and its gradients on tensor cores, channels last, sums in float32.  sm_80 and later.
//
//   x (N, H, W, C)   w (O, kh, kw, C/groups), for the input gradient (groups, C/groups, kh, kw, O/groups)   y (N, oh, ow, O)
//   Maps that are read have channels per group that fill whole copies (the launch adds zeros), and all arrays begin at 16 bytes.
//   T is a 16-bit float, or float: then factors are rounded to TF32, which keeps 10 bits.
//
//   tensor  implicit GEMM as in conv.cu, with these differences.  A warp multiplies 16 x 32 bytes by 32 bytes x 8 in one instruction.
//           Both factors come to shared memory by asynchronous copies of 16 bytes, three slabs in flight, and leave it by ldmatrix.  Which
//           pixel and tap a copy reads is carried from slab to slab by additions, not divided out of an index each time.  The input
//           gradient with strides makes only the products that are not with zeros.
//           Where there are too few tiles for the GPU, the inner index is cut into parts (split-K), added in their order by layout.cu.
//   narrow  copies of 8 bytes, for maps of 4, 12, 20, ... channels of 16 bits per group: a first layer's 3 channels are filled up to 4, not 8.
//
// conv_wide.cu has larger tiles.
#include "tensor_tile.cuh"
#include "conv_products.cuh"

typedef Tile<OnTensorCores, 64, 64, 2, 2, 3, 16> Small;                        // 4 warps of 32 x 32; three slabs of 8 KB
typedef Tile<OnTensorCores, 64, 64, 2, 2, 3, 8> Narrow;

// Grid: (tiles of pixels * tiles of a group's filters, 1, groups * parts); partial (parts, N, oh, ow, O), or null if there is one part.
extern "C" __global__ void __launch_bounds__(128, 4) conv_tensor(const T* __restrict__ x, const T* __restrict__ w,
        const T* __restrict__ b, T* __restrict__ y, float* __restrict__ partial, int parts, int pixels, int C, int H, int W, int O, int kh, int kw,
        int sh, int sw, int top, int left, int dh, int dw, int groups, int oh, int ow, int relu) {
    __shared__ __align__(128) unsigned char shared[Small::BYTES];
    forward<Small>(shared, x, w, b, y, partial, parts, pixels, C, H, W, O, kh, kw, sh, sw, top, left, dh, dw, groups, oh, ow, relu);
}

// Grid: (tiles of a phase's pixels * tiles of a group's channels, 1, groups * phases * parts); partial (parts, N, H, W, C), or null.
extern "C" __global__ void __launch_bounds__(128, 4) conv_input_grad_tensor(const T* __restrict__ gy, const T* __restrict__ w,
        T* __restrict__ gx, float* __restrict__ partial, int parts, int images, int C, int H, int W, int O, int kh, int kw, int sh, int sw,
        int top, int left, int dh, int dw, int groups, int oh, int ow) {
    __shared__ __align__(128) unsigned char shared[Small::BYTES];
    backward<Small>(shared, gy, w, gx, partial, parts, images, C, H, W, O, kh, kw, sh, sw, top, left, dh, dw, groups, oh, ow);
}

// Grid: (tiles of a group's filters, tiles of taps and channels, groups * parts); partial (parts, O, kh, kw, C/groups).
extern "C" __global__ void __launch_bounds__(128, 4) conv_weight_grad_tensor(const T* __restrict__ gy, const T* __restrict__ x,
        float* __restrict__ partial, int pixels, int pixels_per_part, int C, int H, int W, int O, int kh, int kw, int sh, int sw, int top,
        int left, int dh, int dw, int groups, int oh, int ow) {
    __shared__ __align__(128) unsigned char shared[Small::BYTES];
    weights<Small>(shared, gy, x, partial, pixels, pixels_per_part, C, H, W, O, kh, kw, sh, sw, top, left, dh, dw, groups, oh, ow);
}

// ---- narrow: the same grids and arrays ----------------------------------------------------------------------------------

extern "C" __global__ void __launch_bounds__(128, 4) conv_tensor_narrow(const T* __restrict__ x, const T* __restrict__ w,
        const T* __restrict__ b, T* __restrict__ y, float* __restrict__ partial, int parts, int pixels, int C, int H, int W, int O, int kh, int kw,
        int sh, int sw, int top, int left, int dh, int dw, int groups, int oh, int ow, int relu) {
    __shared__ __align__(128) unsigned char shared[Narrow::BYTES];
    forward<Narrow>(shared, x, w, b, y, partial, parts, pixels, C, H, W, O, kh, kw, sh, sw, top, left, dh, dw, groups, oh, ow, relu);
}

extern "C" __global__ void __launch_bounds__(128, 4) conv_input_grad_tensor_narrow(const T* __restrict__ gy, const T* __restrict__ w,
        T* __restrict__ gx, float* __restrict__ partial, int parts, int images, int C, int H, int W, int O, int kh, int kw, int sh, int sw,
        int top, int left, int dh, int dw, int groups, int oh, int ow) {
    __shared__ __align__(128) unsigned char shared[Narrow::BYTES];
    backward<Narrow>(shared, gy, w, gx, partial, parts, images, C, H, W, O, kh, kw, sh, sw, top, left, dh, dw, groups, oh, ow);
}

extern "C" __global__ void __launch_bounds__(128, 4) conv_weight_grad_tensor_narrow(const T* __restrict__ gy, const T* __restrict__ x,
        float* __restrict__ partial, int pixels, int pixels_per_part, int C, int H, int W, int O, int kh, int kw, int sh, int sw, int top,
        int left, int dh, int dw, int groups, int oh, int ow) {
    __shared__ __align__(128) unsigned char shared[Narrow::BYTES];
    weights<Narrow>(shared, gy, x, partial, pixels, pixels_per_part, C, H, W, O, kh, kw, sh, sw, top, left, dh, dw, groups, oh, ow);
}
