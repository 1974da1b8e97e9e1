// builtins.h - what CUDA C++ adds to C++, as ordinary functions and macros.
#pragma once
#include "block.h"

#include <cmath>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__
#define __constant__ static
#define __grid_constant__
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
// static, not thread_local: ASan puts red zones around statics only.
#define __shared__ static __attribute__((used))

#define EMULATOR_TEXT2(x) #x
#define EMULATOR_TEXT(x) EMULATOR_TEXT2(x)
#define EMULATOR_SITE __FILE__ ":" EMULATOR_TEXT(__LINE__) "#" EMULATOR_TEXT(__COUNTER__)

#define threadIdx (emulator::scheduler.current->index)
#define blockIdx (emulator::scheduler.block_index)
#define blockDim (emulator::scheduler.block_dim)
#define gridDim (emulator::scheduler.grid_dim)
static constexpr int warpSize = 32;

// ---- vectors -------------------------------------------------------------------------------------------------------
#define EMULATOR_VECTOR2(T, V)                                          \
    struct alignas(2 * sizeof(T)) V { T x, y; };                        \
    static inline V make_##V(T x, T y) { return {x, y}; }
#define EMULATOR_VECTOR4(T, V)                                          \
    struct alignas(sizeof(T) * 4 > 16 ? 16 : sizeof(T) * 4) V { T x, y, z, w; }; \
    static inline V make_##V(T x, T y, T z, T w) { return {x, y, z, w}; }
EMULATOR_VECTOR2(float, float2) EMULATOR_VECTOR4(float, float4)
EMULATOR_VECTOR2(int, int2) EMULATOR_VECTOR4(int, int4)
EMULATOR_VECTOR2(unsigned, uint2) EMULATOR_VECTOR4(unsigned, uint4)
EMULATOR_VECTOR2(double, double2)

// ---- barriers and shuffles -----------------------------------------------------------------------------------------
#define EMULATOR_FIRST(a, ...) (a)
#define __syncthreads() emulator::block_barrier(EMULATOR_SITE)
#define __syncwarp(...) emulator::warp_barrier(EMULATOR_FIRST(__VA_ARGS__ __VA_OPT__(,) 0xffffffffu), EMULATOR_SITE)
#define __shfl_down_sync(mask, v, d, ...) emulator::shuffle_down(mask, v, d, emulator::width_of(__VA_ARGS__), EMULATOR_SITE)
#define __shfl_up_sync(mask, v, d, ...) emulator::shuffle_up(mask, v, d, emulator::width_of(__VA_ARGS__), EMULATOR_SITE)
#define __shfl_xor_sync(mask, v, d, ...) emulator::shuffle_xor(mask, v, d, emulator::width_of(__VA_ARGS__), EMULATOR_SITE)
#define __shfl_sync(mask, v, lane, ...) emulator::shuffle_from(mask, v, lane, emulator::width_of(__VA_ARGS__), EMULATOR_SITE)
#define __ballot_sync(mask, p) emulator::ballot(mask, p, EMULATOR_SITE)
#define __any_sync(mask, p) (emulator::ballot(mask, p, EMULATOR_SITE) != 0)
#define __all_sync(mask, p) (emulator::ballot(mask, p, EMULATOR_SITE) == (unsigned)(mask))

namespace emulator {
inline int width_of(int width = 32) { return width; }

template <class T> EMULATOR_CODE inline T shuffle(unsigned mask, T value, int source, bool own, const char* site) {
    Posted slot = meet(mask, site, &value, sizeof value);
    if (own) return value;
    if (!(mask >> source & 1)) fail("%s: lane %d reads lane %d, which is not in mask %08x", site, scheduler.current->lane, source, mask);
    return posted<T>(slot, source);
}
// A source outside the segment of `width` lanes gives the lane its own value, as on a GPU.
template <class T> T shuffle_down(unsigned mask, T v, int delta, int width, const char* site) {
    const int lane = scheduler.current->lane, source = lane + delta;
    return shuffle(mask, v, source, source >= (lane / width + 1) * width, site);
}
template <class T> T shuffle_up(unsigned mask, T v, int delta, int width, const char* site) {
    const int lane = scheduler.current->lane, source = lane - delta;
    return shuffle(mask, v, source, source < lane / width * width, site);
}
template <class T> T shuffle_xor(unsigned mask, T v, int bits, int width, const char* site) {
    const int lane = scheduler.current->lane, source = lane ^ bits;
    return shuffle(mask, v, source, source >= (lane / width + 1) * width, site);
}
template <class T> T shuffle_from(unsigned mask, T v, int from, int width, const char* site) {
    const int lane = scheduler.current->lane;
    return shuffle(mask, v, lane / width * width + from % width, false, site);
}
EMULATOR_CODE inline unsigned ballot(unsigned mask, int predicate, const char* site) {
    const int value = predicate != 0;
    Posted slot = meet(mask, site, &value, sizeof value);
    unsigned bits = 0;
    for (int lane = 0; lane < 32; lane++) if (mask >> lane & 1 && posted<int>(slot, lane)) bits |= 1u << lane;
    return bits;
}

// ---- atomics: relaxed, and known to TSan as atomics ----------------------------------------------------------------
template <class T, class F> inline T read_modify_write(T* p, F change) {
    using Word = std::conditional_t<sizeof(T) == 8, uint64_t, std::conditional_t<sizeof(T) == 2, uint16_t, uint32_t>>;
    Word* word = reinterpret_cast<Word*>(p);
    Word before = __atomic_load_n(word, __ATOMIC_RELAXED), after;
    T old, fresh;
    do {
        memcpy(&old, &before, sizeof old);
        fresh = change(old);
        memcpy(&after, &fresh, sizeof after);
    } while (!__atomic_compare_exchange_n(word, &before, after, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return old;
}
template <class T> using Same = typename std::common_type<T>::type;     // not deduced: atomicAdd(float*, 1) works
}  // namespace emulator
template <class T> inline T atomicAdd(T* p, emulator::Same<T> v) { return emulator::read_modify_write(p, [&](T o) { return T(o + v); }); }
template <class T> inline T atomicMax(T* p, emulator::Same<T> v) { return emulator::read_modify_write(p, [&](T o) { return o > v ? o : v; }); }
template <class T> inline T atomicMin(T* p, emulator::Same<T> v) { return emulator::read_modify_write(p, [&](T o) { return o < v ? o : v; }); }
template <class T> inline T atomicExch(T* p, emulator::Same<T> v) { return emulator::read_modify_write(p, [&](T) { return v; }); }
template <class T> inline T atomicCAS(T* p, emulator::Same<T> c, emulator::Same<T> v) { return emulator::read_modify_write(p, [&](T o) { return o == c ? v : o; }); }
inline void __threadfence() {}
inline void __threadfence_block() {}

// ---- arithmetic ----------------------------------------------------------------------------------------------------
template <class T> inline T __ldg(const T* p) { return *p; }
template <class T> inline T __ldcs(const T* p) { return *p; }
template <class T> inline void __stcs(T* p, emulator::Same<T> v) { *p = v; }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float rsqrtf(float x) { return 1.f / sqrtf(x); }
inline double rsqrt(double x) { return 1. / sqrt(x); }
inline int __float_as_int(float f) { int i; memcpy(&i, &f, 4); return i; }
inline float __int_as_float(int i) { float f; memcpy(&f, &i, 4); return f; }
inline unsigned __float_as_uint(float f) { unsigned i; memcpy(&i, &f, 4); return i; }
inline float __uint_as_float(unsigned i) { float f; memcpy(&f, &i, 4); return f; }
inline unsigned __umulhi(unsigned a, unsigned b) { return (uint64_t)a * b >> 32; }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(unsigned x) { return __builtin_ffs(x); }
using std::max;
using std::min;
