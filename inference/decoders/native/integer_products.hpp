// Products of integers of eight and sixteen bits, added up in the lanes of a vector: by the processor's own
// instructions, a register at a time.

#pragma once

#include "numbers.hpp"

namespace {

// Of a register: to each lane's sum, two products of numbers of sixteen bits.
#if defined(__AVX512VNNI__)
inline Ints add_two(Ints sums, Ints a, Ints b) {
    return (Ints)_mm512_dpwssd_epi32((__m512i)sums, (__m512i)a, (__m512i)b);
}
#elif HALVED && defined(__AVXVNNI__)
template <class Register>
inline Register add_two(Register sums, Register a, Register b) {
    return (Register)_mm256_dpwssd_avx_epi32((__m256i)sums, (__m256i)a, (__m256i)b);
}
#elif defined(__AVX512BW__)
inline Ints add_two(Ints sums, Ints a, Ints b) { return sums + (Ints)_mm512_madd_epi16((__m512i)a, (__m512i)b); }
#elif HALVED && defined(__AVX2__)
template <class Register>
inline Register add_two(Register sums, Register a, Register b) {
    return sums + (Register)_mm256_madd_epi16((__m256i)a, (__m256i)b);
}
#elif HALVED && defined(__SSSE3__)
template <class Register>
inline Register add_two(Register sums, Register a, Register b) {
    return sums + (Register)_mm_madd_epi16((__m128i)a, (__m128i)b);
}
#elif defined(__aarch64__)
template <class Register>
inline Register add_two(Register sums, Register a, Register b) {
    const int16x8_t left = (int16x8_t)a, right = (int16x8_t)b;
    const int32x4_t lower = vmull_s16(vget_low_s16(left), vget_low_s16(right)), upper = vmull_high_s16(left, right);
    return sums + (Register)vpaddq_s32(lower, upper);
}
#else
inline Ints add_two(Ints sums, Ints a, Ints b) {
    return sums + (a << 16 >> 16) * (b << 16 >> 16) + (a >> 16) * (b >> 16);
}
#endif

inline Ints add_pairs(Ints sums, Ints a, Ints b) {
    return for_each_register([](auto sums, auto a, auto b) { return add_two(sums, a, b); }, sums, a, b);
}

// Of a register: to each lane's sum, four unsigned codes of BITS bits times four signed inputs.
#if defined(__AVX512VNNI__)
template <int BITS>
inline Ints add_four(Ints sums, Bits codes, Ints inputs) {
    return (Ints)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)codes, (__m512i)inputs);
}
#elif HALVED && defined(__AVXVNNI__)
template <int BITS, class Register, class Codes>
inline Register add_four(Register sums, Codes codes, Register inputs) {
    return (Register)_mm256_dpbusd_avx_epi32((__m256i)sums, (__m256i)codes, (__m256i)inputs);
}
#elif defined(__AVX512BW__) || HALVED && defined(__SSSE3__)
// Two products at a time, whose sum is a number of sixteen bits.
template <class Register, class Codes>
inline Register sums_of_two(Codes codes, Register inputs) {
#if defined(__AVX512BW__)
    return (Register)_mm512_maddubs_epi16((__m512i)codes, (__m512i)inputs);
#elif defined(__AVX2__)
    return (Register)_mm256_maddubs_epi16((__m256i)codes, (__m256i)inputs);
#else
    return (Register)_mm_maddubs_epi16((__m128i)codes, (__m128i)inputs);
#endif
}

// Codes of eight bits would be too large for that: they and their inputs become numbers of sixteen bits first.
template <int BITS, class Register, class Codes>
inline Register add_four(Register sums, Codes codes, Register inputs) {
    if constexpr (BITS < 8) {
        return add_two(sums, sums_of_two(codes, inputs), 0x00010001 - Register{});
    } else {
        typedef int16_t Numbers __attribute__((vector_size(sizeof(Register)), aligned(4), may_alias));
        const Numbers x = (Numbers)inputs;
        const Register even = add_two(Register{}, (Register)(codes & 0x00ff00ff), (Register)(x << 8 >> 8));
        return sums + add_two(even, (Register)(codes >> 8 & 0x00ff00ff), (Register)(x >> 8));
    }
}
#elif defined(__aarch64__)
// Both signed.
template <class Register>
inline Register add_four_signed(Register sums, Register a, Register b) {
    const int8x16_t left = (int8x16_t)a, right = (int8x16_t)b;
#if defined(__ARM_FEATURE_DOTPROD)
    return (Register)vdotq_s32((int32x4_t)sums, left, right);
#else
    const int16x8_t lower = vmull_s8(vget_low_s8(left), vget_low_s8(right)), upper = vmull_high_s8(left, right);
    return (Register)vpadalq_s16((int32x4_t)sums, vpaddq_s16(lower, upper));
#endif
}

// A code of eight bits is no signed number: without an instruction for both kinds, its highest bit is multiplied apart.
template <int BITS, class Register, class Codes>
inline Register add_four(Register sums, Codes codes, Register inputs) {
    if constexpr (BITS < 8) {
        return add_four_signed(sums, (Register)codes, inputs);
    } else {
#if defined(__ARM_FEATURE_MATMUL_INT8)
        return (Register)vusdotq_s32((int32x4_t)sums, (uint8x16_t)codes, (int8x16_t)inputs);
#else
        const Register highest = add_four_signed(Register{}, (Register)(codes >> 7 & 0x01010101), inputs);
        return add_four_signed(sums, (Register)(codes & 0x7f7f7f7f), inputs) + (highest << 7);
#endif
    }
}
#else
template <int BITS>
inline Ints add_four(Ints sums, Bits codes, Ints inputs) {
    for (int i = 0; i < 4; ++i) sums += (Ints)(codes >> uint32_t(8 * i) & 0xff) * (inputs << 24 - 8 * i >> 24);
    return sums;
}
#endif

// The inputs are the same in all lanes.
template <int BITS>
inline Ints add_products(Ints sums, Bits codes, Ints inputs) {
    const auto add = [](auto sums, auto codes, auto inputs) { return add_four<BITS>(sums, codes, inputs); };
    return for_each_register(add, sums, codes, inputs);
}

}  // namespace
