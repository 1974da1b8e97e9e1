// mma.cuh - all the PTX there is: asynchronous copies to shared memory, ldmatrix, and products on tensor cores (sm_80 and later).
//
// A warp multiplies a (16 x K) by b (K x 8) into d (16 x 8), its values spread over the lanes: lane l holds of d rows l/4 and l/4 + 8,
// columns 2*(l%4) and one more.  See "Matrix fragments for mma.m16n8k16" in the PTX ISA manual.
#pragma once
#include "common.cuh"

#ifndef MINIDL_EMULATOR
__device__ __forceinline__ unsigned shared_address(const void* p) { return (unsigned)__cvta_generic_to_shared(p); }

// 16 bytes to shared memory, of which the first `bytes` come from `source` and the rest are zero.
__device__ __forceinline__ void copy_async_16(void* target, const void* source, int bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared_address(target)), "l"(source), "r"(bytes));
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
