// Products of integers of eight and sixteen bits where a vector is several registers (halved.hpp): the processor's own
// instructions, a register at a time.

#pragma once

#include "numbers.hpp"

#if HALVED
namespace {

// Two products of numbers of sixteen bits, in each lane.
#if defined(__aarch64__)
template <class Register>
inline Register pair_products_of_register(Register a, Register b) {
    const int16x8_t left = (int16x8_t)a, right = (int16x8_t)b;
    const int32x4_t lower = vmull_s16(vget_low_s16(left), vget_low_s16(right)), upper = vmull_high_s16(left, right);
    return (Register)vpaddq_s32(lower, upper);
}
#elif defined(__AVX2__)
template <class Register>
inline Register pair_products_of_register(Register a, Register b) {
    return (Register)_mm256_madd_epi16((__m256i)a, (__m256i)b);
}
#else
template <class Register>
inline Register pair_products_of_register(Register a, Register b) {
    return (Register)_mm_madd_epi16((__m128i)a, (__m128i)b);
}
#endif

inline Ints pair_products(Ints a, Ints b) {
    return for_each_register([](auto a, auto b) { return pair_products_of_register(a, b); }, a, b);
}

#if defined(__aarch64__)
// To each lane's sum, four products of signed numbers of eight bits.
template <class Register>
inline Register add_to_register(Register sums, Register a, Register b) {
    const int8x16_t left = (int8x16_t)a, right = (int8x16_t)b;
#if defined(__ARM_FEATURE_DOTPROD)
    return (Register)vdotq_s32((int32x4_t)sums, left, right);
#else
    const int16x8_t lower = vmull_s8(vget_low_s8(left), vget_low_s8(right)), upper = vmull_high_s8(left, right);
    return (Register)vpadalq_s16((int32x4_t)sums, vpaddq_s16(lower, upper));
#endif
}

inline Ints add_signed_products(Ints sums, Ints a, Ints b) {
    return for_each_register([](auto sums, auto a, auto b) { return add_to_register(sums, a, b); }, sums, a, b);
}

// To each lane's sum, four products of unsigned codes and inputs. A code of eight bits is no signed number: without an
// instruction for both kinds, its highest bit is multiplied apart.
template <int BITS>
inline Ints add_code_products(Ints sums, Bits codes, Ints inputs) {
    if constexpr (BITS < 8) {
        return add_signed_products(sums, (Ints)codes, inputs);
    } else {
#if defined(__ARM_FEATURE_MATMUL_INT8)
        const auto add = [](auto sums, auto codes, auto inputs) {
            return (decltype(sums))vusdotq_s32((int32x4_t)sums, (uint8x16_t)codes, (int8x16_t)inputs);
        };
        return for_each_register(add, sums, codes, inputs);
#else
        const Ints highest = add_signed_products(Ints{}, (Ints)(codes >> 7 & 0x01010101), inputs);
        return add_signed_products(sums, (Ints)(codes & 0x7f7f7f7f), inputs) + (highest << 7);
#endif
    }
}
#else
// Four products of unsigned codes and inputs, of which two are added to a number of sixteen bits.
template <class Register, class Codes>
inline Register sums_of_pairs(Register inputs, Codes codes) {
#if defined(__AVX2__)
    return (Register)_mm256_maddubs_epi16((__m256i)codes, (__m256i)inputs);
#else
    return (Register)_mm_maddubs_epi16((__m128i)codes, (__m128i)inputs);
#endif
}

// To each lane's sum, four products of codes and inputs. Codes of eight bits would be too large for numbers of sixteen
// bits: they and their inputs become such numbers first.
template <int BITS>
inline Ints add_code_products(Ints sums, Bits codes, Ints inputs) {
    if constexpr (BITS < 8) {
        const auto pairs = [](auto inputs, auto codes) { return sums_of_pairs(inputs, codes); };
        return sums + pair_products(for_each_register(pairs, inputs, codes), 0x00010001);
    } else {
        const Shorts x = (Shorts)inputs;
        return sums + (pair_products((Ints)(codes & 0x00ff00ff), (Ints)(x << 8 >> 8)) +
                       pair_products((Ints)((Shorts)codes >> 8 & 0xff), (Ints)(x >> 8)));
    }
}
#endif

}  // namespace
#endif
