// Numbers, sixteen at a time: vectors, which compilers put on whatever registers there are, and the precisions.
//
// Defined by the compiler's command line: BF16 (1: weights, cache and the inputs of products are bfloat16; 0: float32),
// and FORMATS (other than 0: some matrices are quantized, see blocks.hpp). Sums are float32 either way.

#pragma once

#if !defined(__clang__)  // gcc, which takes a tenth less time without asking what each pointer may point to
#pragma GCC optimize("no-tree-pta")
#endif

#include <cstdint>
#include <cstring>

#include "intrinsics.hpp"

#if defined(__AVX512BF16__) && BF16
#define PAIR_PRODUCTS 1  // an instruction that multiplies sixteen pairs of bfloat16 with sixteen others
#else
#define PAIR_PRODUCTS 0
#endif
#if defined(__AMX_BF16__) && PAIR_PRODUCTS
#define TILES 1  // registers of sixteen rows, and their product in one instruction: AMX
#else
#define TILES 0
#endif

namespace {

// `function` of registers; of vectors that fill several (halved.hpp), for each of these.
template <class Function, class Register, class... Registers>
inline Register for_each_register(Function function, Register first, Registers... others) {
    return function(first, others...);
}

}  // namespace

#if defined(__aarch64__) || defined(__SSSE3__) && !defined(__AVX512F__)
#define HALVED 1
#include "halved.hpp"
#else
#define HALVED 0
#endif

namespace {

#if HALVED
using Floats = Halved<float>;
using Ints = Halved<int32_t>;
using Bits = Halved<uint32_t>;
using Shorts = Halved<int16_t>;
using UnsignedShorts = Halved<uint16_t>;
#else
typedef float Floats __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t Ints __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint32_t Bits __attribute__((vector_size(64), aligned(4), may_alias));
typedef int16_t Shorts __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint16_t UnsignedShorts __attribute__((vector_size(64), aligned(4), may_alias));
template <class Mask, class Vector>
inline Vector select(Mask mask, Vector a, Vector b) {
    return mask ? a : b;
}
#endif
typedef uint16_t Halves __attribute__((vector_size(32), aligned(2), may_alias));
typedef int8_t Bytes __attribute__((vector_size(16), aligned(1), may_alias));
typedef uint8_t UnsignedBytes __attribute__((vector_size(16), aligned(1), may_alias));
constexpr int64_t LANES = 16;

#if BF16
using Weight = uint16_t;     // a bfloat16 is the upper half of a float32
constexpr int64_t PAIR = 2;  // two inputs' weights lie side by side, as the processor's instructions want them
#else
using Weight = float;
constexpr int64_t PAIR = 1;
#endif

#if FORMATS
using Activation = float;  // what a quantized matrix is multiplied with is rounded once, just before
#else
using Activation = Weight;
#endif

// The same numbers in another type. Those of fewer bytes lie side by side in memory.
#if HALVED
inline Floats to_floats(Ints numbers) { return Floats::converted(numbers); }
inline Ints to_ints(Floats numbers) { return Ints::converted(numbers); }
template <class To, class Number>
inline Halved<To> widened(const Number *from) {
    return Halved<To>::widened(from);
}
inline void store_narrowed(uint16_t *to, Bits numbers) { numbers.store_narrowed(to); }
#else
inline Floats to_floats(Ints numbers) { return __builtin_convertvector(numbers, Floats); }
inline Ints to_ints(Floats numbers) { return __builtin_convertvector(numbers, Ints); }
template <class To>
inline Bits widened(const uint16_t *from) {
    return __builtin_convertvector(*reinterpret_cast<const Halves *>(from), Bits);
}
template <class To>
inline Ints widened(const int8_t *from) {
    return __builtin_convertvector(*reinterpret_cast<const Bytes *>(from), Ints);
}
template <class To>
inline Ints widened(const uint8_t *from) {
    return __builtin_convertvector(*reinterpret_cast<const UnsignedBytes *>(from), Ints);
}
inline void store_narrowed(uint16_t *to, Bits numbers) {
    *reinterpret_cast<Halves *>(to) = __builtin_convertvector(numbers, Halves);
}
#endif
// A number in all lanes. Nothing is subtracted, as any number less 0 is itself. 0 and a number can be another (-0), so
// that sum is computed, and without AVX-512 gcc 12 does it lane by lane: products take several times as long.
inline Floats broadcast(float number) { return number - Floats{}; }
inline Floats load(const float *from) { return *reinterpret_cast<const Floats *>(from); }
inline void store(float *to, Floats numbers) { *reinterpret_cast<Floats *>(to) = numbers; }
inline Floats load(const uint16_t *from) { return (Floats)(widened<uint32_t>(from) << 16); }
inline Floats load(const int8_t *from) {
#if defined(__AVX512F__)  // gcc 12 would go number by number
    const Bytes bytes = *reinterpret_cast<const Bytes *>(from);
    return to_floats((Ints)_mm512_cvtepi8_epi32((__m128i)bytes));
#else
    return to_floats(widened<int32_t>(from));
#endif
}
inline Floats load(const uint8_t *from) {
#if defined(__AVX512F__)
    const UnsignedBytes bytes = *reinterpret_cast<const UnsignedBytes *>(from);
    return to_floats((Ints)_mm512_cvtepu8_epi32((__m128i)bytes));
#else
    return to_floats(widened<int32_t>(from));
#endif
}
// Sixteen numbers of float16. All but the exponent's offset is where float32 has it, once it is moved.
inline Floats load_halves(const uint8_t *from) {
#if defined(__AVX512F__)
    const Halves halves = *reinterpret_cast<const Halves *>(from);
    return (Floats)_mm512_cvtph_ps((__m256i)halves);
#elif HALVED && defined(__AVX2__) && defined(__F16C__)
    const auto eight = [&](int64_t first) {
        const UnsignedBytes halves = *reinterpret_cast<const UnsignedBytes *>(from + 2 * first);
        return (Floats::Half)_mm256_cvtph_ps((__m128i)halves);
    };
    return {eight(0), eight(8)};
#elif defined(__aarch64__)
    float16_t halves[LANES];
    memcpy(halves, from, sizeof halves);
    const auto four = [&](int first) { return (Floats::Half::Half)vcvt_f32_f16(vld1_f16(halves + first)); };
    return {{four(0), four(4)}, {four(8), four(12)}};
#else
    const Bits bits = widened<uint32_t>(reinterpret_cast<const uint16_t *>(from));
    return (Floats)((bits & 0x7fff) << 13 | (bits & 0x8000) << 16) * 0x1p112f;
#endif
}
inline float half_to_float(uint16_t half) {
    const uint32_t bits = uint32_t(half & 0x7fff) << 13 | uint32_t(half & 0x8000) << 16;
    float number;
    memcpy(&number, &bits, sizeof number);
    return number * 0x1p112f;
}
// a * b + c, rounded once wherever the processor can: the compiler must not choose from one function to the next.
inline Floats multiply_add(Floats a, Floats b, Floats c) {
#if defined(__AVX512F__)
    return (Floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#else
    return a * b + c;
#endif
}
inline Bits rounded(Floats numbers) {  // to the nearest bfloat16; of two, to the even one
    const Bits bits = (Bits)numbers;
    return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}
inline void store(uint16_t *to, Floats numbers) { store_narrowed(to, rounded(numbers)); }

// Sixteen pairs of numbers that lie side by side, as they are multiplied with a pair of inputs.
#if PAIR_PRODUCTS
inline __m512bh load_pairs(const uint16_t *from) { return (__m512bh)load(reinterpret_cast<const float *>(from)); }
inline __m512bh broadcast_pair(const uint16_t *from) {  // sixteen times
    uint32_t both;
    memcpy(&both, from, sizeof both);
    return (__m512bh)(Bits{} + both);
}
#elif BF16
struct Pairs {
    Floats first, second;
};
inline Pairs halves_of_pairs(Bits both) { return {(Floats)(both << 16), (Floats)(both & 0xffff0000)}; }
inline Pairs load_pairs(const uint16_t *from) { return halves_of_pairs(*reinterpret_cast<const Bits *>(from)); }
inline Pairs broadcast_pair(const uint16_t *from) {
    uint32_t both;
    memcpy(&both, from, sizeof both);
    return halves_of_pairs(Bits{} + both);
}
#endif

inline float to_float(float number) { return number; }
inline float to_float(uint16_t number) {
    const uint32_t bits = uint32_t(number) << 16;
    float widened;
    memcpy(&widened, &bits, sizeof widened);
    return widened;
}

// Adds halves onto halves: in the same order with any compiler.
inline float sum(Floats numbers) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps((__m512)numbers);
#else
    float lanes[LANES];
    store(lanes, numbers);
    for (int64_t half = LANES / 2; half; half /= 2)
        for (int64_t lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
    return lanes[0];
#endif
}
inline float maximum(Floats numbers) {
    float largest = numbers[0];
    for (int64_t lane = 1; lane < LANES; ++lane) largest = numbers[lane] > largest ? numbers[lane] : largest;
    return largest;
}

// What is needed of <algorithm> and <cmath>: gcc takes 0.1 s to read either.
template <class T>
constexpr T min(T a, T b) {
    return b < a ? b : a;
}
template <class T>
constexpr T max(T a, T b) {
    return a < b ? b : a;
}
constexpr float INFINITE = __builtin_inff();

// e^x to float32's last digit but one: 2^n by its bits, the rest by a polynomial on [-ln 2 / 2, ln 2 / 2].
inline Floats exponential(Floats x) {
    x = select(x < -87.0f, broadcast(-87.0f), select(x > 88.0f, broadcast(88.0f), x));
    constexpr float ROUNDER = 12582912.0f;  // 1.5 * 2^23: adding it leaves no place for a fraction
    const Floats n = multiply_add(x, broadcast(1.44269504f), broadcast(ROUNDER)) - ROUNDER;
    const Floats r = multiply_add(n, broadcast(2.12194440e-4f), multiply_add(n, broadcast(-0.693359375f), x));
    Floats p = broadcast(0.00138889f);
    constexpr float LAST[] = {0.00833333f, 0.0416666667f, 0.166666667f, 0.5f, 1.0f, 1.0f};
    for (float next : LAST) p = multiply_add(p, r, broadcast(next));
    Ints power = (to_ints(n) + 127) << 23;
    return p * (Floats)power;
}

// Sixteen numbers that approach a bound, as tanh approaches 1: cap * tanh(x / cap), by 1 - 2 / (1 + e^2x).
inline void approach(float *numbers, float cap) {
    store(numbers, cap - 2 * cap / (1 + exponential(load(numbers) * (2 / cap))));
}

}  // namespace
