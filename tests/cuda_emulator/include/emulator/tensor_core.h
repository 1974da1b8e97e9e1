// tensor_core.h - what kernels/cuda/mma.cuh does in PTX on a GPU: asynchronous copies, ldmatrix and mma.sync as loops.
//
// The layout of the fragments is that of the PTX ISA manual, section "Matrix fragments for mma.m16n8k16 / m16n8k8".
#pragma once
#include "half.h"

namespace emulator {

// A copy is made when it is waited for and not before, so that a missing wait or barrier shows: as 0xff or as older values.
EMULATOR_CODE inline void finish_copies(int groups_left) {
    Fiber* fiber = scheduler.current;
    int left = 0;
    for (int i = 0; i < fiber->copy_count; i++) {
        const AsyncCopy copy = fiber->copies[i];
        if (copy.group >= fiber->copy_group - groups_left) { fiber->copies[left++] = copy; continue; }
        memcpy(copy.target, copy.source, copy.bytes);
        memset(static_cast<char*>(copy.target) + copy.bytes, 0, copy.size - copy.bytes);
    }
    fiber->copy_count = left;
}
EMULATOR_CODE inline void queue_copy(void* target, const void* source, int bytes, int size) {
    Fiber* fiber = scheduler.current;
    if (fiber->copy_count == MAX_COPIES) fail("cp.async: more than %d copies of one thread in flight", MAX_COPIES);
    fiber->copies[fiber->copy_count++] = {target, source, bytes, size, fiber->copy_group};
}

// A function of its own, so that the sanitizers see what ldmatrix reads.
__attribute__((noinline)) inline uint16_t read_element(const uint16_t* p) { return *p; }

EMULATOR_CODE inline void load_matrices(unsigned (&r)[4], const void* row_address, bool transposed, const char* site) {
    if ((uintptr_t)row_address & 15) fail("%s: ldmatrix: row address is not a multiple of 16", site);
    Posted slot = meet(~0u, site, &row_address, sizeof row_address);
    const int lane = scheduler.current->lane;
    for (int matrix = 0; matrix < 4; matrix++) {
        uint16_t pair[2];
        for (int e = 0; e < 2; e++) {
            const int row = transposed ? lane % 4 * 2 + e : lane / 4, column = transposed ? lane / 4 : lane % 4 * 2 + e;
            pair[e] = read_element(posted<const uint16_t*>(slot, matrix * 8 + row) + column);
        }
        memcpy(&r[matrix], pair, 4);
    }
}

// d (16x8) += a (16 x 8*PER) b (8*PER x 8); PER values of k in a 32-bit register, which `value(register, i)` takes out.
template <int PER, class F>
EMULATOR_CODE inline void multiply(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, F value, const char* site) {
    const unsigned mine[6] = {a[0], a[1], a[2], a[3], b0, b1};
    Posted slot = meet(~0u, site, mine, sizeof mine);
    const int lane = scheduler.current->lane, group = lane >> 2, within = lane & 3;
    const auto a_at = [&](int row, int k) {
        const unsigned* r = reinterpret_cast<const unsigned*>(slot[(row & 7) * 4 + k / PER % 4]);
        return value(r[(row >> 3) + 2 * (k / (4 * PER))], k % PER);
    };
    const auto b_at = [&](int k, int column) {
        const unsigned* r = reinterpret_cast<const unsigned*>(slot[column * 4 + k / PER % 4]);
        return value(r[4 + k / (4 * PER)], k % PER);
    };
    for (int i = 0; i < 4; i++) {
        const int row = group + (i >> 1) * 8, column = within * 2 + (i & 1);
        float sum = 0;
        for (int k = 0; k < 8 * PER; k++) sum += a_at(row, k) * b_at(k, column);
        d[i] += sum;
    }
}

}  // namespace emulator

template <int SIZE> inline void copy_async(void* target, const void* source, int bytes) {
    if ((uintptr_t)target % SIZE || (uintptr_t)source % SIZE) emulator::fail("cp.async: address is not a multiple of %d", SIZE);
    for (int i = 0; i < bytes; i++) (void)((const volatile char*)source)[i];      // here, so that ASan sees the read
    emulator::queue_copy(target, source, bytes, SIZE);
}
EMULATOR_CODE inline void copy_async_commit() { emulator::scheduler.current->copy_group++; }
template <int LEFT> inline void copy_async_wait() { emulator::finish_copies(LEFT); }
#define load_matrix_x4(r, ...) emulator::load_matrices(r, __VA_ARGS__, false, EMULATOR_SITE)
#define load_matrix_x4_transposed(r, ...) emulator::load_matrices(r, __VA_ARGS__, true, EMULATOR_SITE)
#define mma_bf16(d, a, b0, b1) emulator::multiply<2>(d, a, b0, b1, \
    [](unsigned r, int i) { return emulator::from_bfloat16(uint16_t(r >> (16 * i))); }, EMULATOR_SITE)
#define mma_f16(d, a, b0, b1) emulator::multiply<2>(d, a, b0, b1, \
    [](unsigned r, int i) { return emulator::from_half(uint16_t(r >> (16 * i))); }, EMULATOR_SITE)
#define mma_tf32(d, a, b0, b1) emulator::multiply<1>(d, a, b0, b1, \
    [](unsigned r, int) { return __uint_as_float(r & 0xffffe000u); }, EMULATOR_SITE)    // the hardware reads 19 bits
inline unsigned to_tf32(float f) { return __float_as_uint(emulator::round_to_tf32(f)); }
