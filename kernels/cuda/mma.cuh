// mma.cuh - all the PTX there is: asynchronous copies to shared memory, ldmatrix, and products on tensor cores (sm_80 and later).
//
// A warp multiplies a (16 x K) by b (K x 8) into d (16 x 8), its values spread over the lanes: lane l holds of d rows l/4 and l/4 + 8,
// columns 2*(l%4) and one more.  See "Matrix fragments for mma.m16n8k16" in the PTX ISA manual.  K is 32 bytes long: 16 numbers of 16 bits, 8 of
// TF32.  A register has two of 16 bits or one of TF32, and otherwise the fragments are alike, byte for byte.
#pragma once
#include "common.cuh"

#ifndef MINIDL_EMULATOR
__device__ __forceinline__ unsigned shared_address(const void* p) { return (unsigned)__cvta_generic_to_shared(p); }

// BYTES (8 or 16) to shared memory, of which the first `bytes` come from `source` and the rest are zero.
template <int BYTES> __device__ __forceinline__ void copy_async(void* target, const void* source, int bytes) {
    if (BYTES == 16)                                                         // cg: not through the nearest cache
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared_address(target)), "l"(source), "r"(bytes));
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;\n" ::"r"(shared_address(target)), "l"(source), "r"(bytes));
}
__device__ __forceinline__ void copy_async_commit() { asm volatile("cp.async.commit_group;\n" ::); }
template <int LEFT> __device__ __forceinline__ void copy_async_wait() {      // until at most LEFT groups are in flight
    asm volatile("cp.async.wait_group %0;\n" ::"n"(LEFT) : "memory");
}
__device__ __forceinline__ void load_matrix_x4(unsigned (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}
__device__ __forceinline__ void load_matrix_x4_transposed(unsigned (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}
#define MMA(NAME, SHAPE_AND_TYPES)                                                                                       \
    __device__ __forceinline__ void NAME(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {              \
        asm volatile("mma.sync.aligned." SHAPE_AND_TYPES " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"      \
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                                    \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));                                    \
    }
MMA(mma_bf16, "m16n8k16.row.col.f32.bf16.bf16.f32")
MMA(mma_f16, "m16n8k16.row.col.f32.f16.f16.f32")
MMA(mma_tf32, "m16n8k8.row.col.f32.tf32.tf32.f32")
__device__ __forceinline__ unsigned to_tf32(float f) {                       // to the nearest, ties away from zero
    unsigned r;
    asm("cvt.rna.tf32.f32 %0, %1;\n" : "=r"(r) : "f"(f));
    return r;
}
#endif

// d += a * b in the type of the arrays; float32 is rounded to TF32 (10 bits of 23) on its way in.
#ifdef MINIDL_HALF
__device__ __forceinline__ void multiply(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, __half) { mma_f16(d, a, b0, b1); }
__device__ __forceinline__ void multiply(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, __nv_bfloat16) { mma_bf16(d, a, b0, b1); }
#endif
__device__ __forceinline__ void multiply(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, float) { mma_tf32(d, a, b0, b1); }
template <int N> __device__ __forceinline__ void round_to_tensor(unsigned (&r)[N]) {
    if (sizeof(T) == 4)
#pragma unroll
        for (int i = 0; i < N; i++) r[i] = to_tf32(__uint_as_float(r[i]));
}
