// half.h - __half and __nv_bfloat16: stored in 16 bits, computed in float, rounded to nearest even.
#pragma once
#include "builtins.h"

namespace emulator {
inline uint16_t bfloat16_bits(float f) {
    const uint32_t u = __float_as_uint(f);
    return f != f ? 0x7fff : (u + 0x7fff + (u >> 16 & 1)) >> 16;
}
inline float from_bfloat16(uint16_t bits) { return __uint_as_float((uint32_t)bits << 16); }
inline uint16_t half_bits(float f) { _Float16 h = (_Float16)f; uint16_t bits; memcpy(&bits, &h, 2); return bits; }
inline float from_half(uint16_t bits) { _Float16 h; memcpy(&h, &bits, 2); return (float)h; }
// 10 bits of mantissa, to the nearest, ties away from zero (cvt.rna).
inline float round_to_tf32(float f) { return f != f ? f : __uint_as_float((__float_as_uint(f) + 0x1000) & 0xffffe000u); }
}  // namespace emulator

#define EMULATOR_HALF(T, T2, TO_BITS, FROM_BITS)                                              \
    struct T {                                                                                \
        uint16_t bits = 0;                                                                    \
        T() = default;                                                                        \
        T(float f) : bits(emulator::TO_BITS(f)) {}                                            \
        operator float() const { return emulator::FROM_BITS(bits); }                          \
    };                                                                                        \
    inline T operator+(T a, T b) { return T(float(a) + float(b)); }                           \
    inline T operator-(T a, T b) { return T(float(a) - float(b)); }                           \
    inline T operator*(T a, T b) { return T(float(a) * float(b)); }                           \
    inline T operator/(T a, T b) { return T(float(a) / float(b)); }                           \
    struct alignas(4) T2 { T x, y; };
EMULATOR_HALF(__half, __half2, half_bits, from_half)
EMULATOR_HALF(__nv_bfloat16, __nv_bfloat162, bfloat16_bits, from_bfloat16)
using half = __half;
using half2 = __half2;
using nv_bfloat16 = __nv_bfloat16;
using nv_bfloat162 = __nv_bfloat162;
inline __half __float2half(float f) { return f; }
inline float __half2float(__half h) { return h; }
inline __nv_bfloat16 __float2bfloat16(float f) { return f; }
inline float __bfloat162float(__nv_bfloat16 h) { return h; }
