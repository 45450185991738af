// Instructions of AVX-512, and a few of AVX2 and SSE, that C++ has no operator for, by the names that Intel gave them.
//
// <immintrin.h> declares 6,000, and gcc takes 0.3 s to read it: for two sources, a tenth of a server's first start. So
// these few are declared here as they are there. Other compilers, gcc's later versions, which may call its own
// functions otherwise, and processors with tiles get the whole header. (ARM's takes 0.1 s.)

#pragma once

#if defined(__aarch64__)
#include <arm_neon.h>
#elif defined(__SSSE3__) && (defined(__clang__) || __GNUC__ > 15 || defined(__AMX_BF16__))
#include <immintrin.h>
#elif defined(__AVX512F__)

namespace {

typedef float __m512 __attribute__((vector_size(64), may_alias));
typedef int __m512i __attribute__((vector_size(64), may_alias));
typedef short __m256i __attribute__((vector_size(32), may_alias));
typedef long long __m128i __attribute__((vector_size(16), may_alias));  // as in the header
typedef char Chars __attribute__((vector_size(16)));
typedef unsigned short __mmask16;

constexpr int ALL = -1, ROUNDED_AS_USUAL = 4;  // which lanes, and how
constexpr int _CMP_LT_OQ = 17, _CMP_GE_OQ = 29, _CMP_GT_OQ = 30;

inline __m512 _mm512_fmadd_ps(__m512 a, __m512 b, __m512 c) {
    return __builtin_ia32_vfmaddps512_mask(a, b, c, ALL, ROUNDED_AS_USUAL);
}
inline __m512i _mm512_srav_epi32(__m512i a, __m512i by) { return __builtin_ia32_psrav16si_mask(a, by, a, ALL); }
inline __m512i _mm512_sllv_epi32(__m512i a, __m512i by) { return __builtin_ia32_psllv16si_mask(a, by, a, ALL); }
#if defined(__AVX512VNNI__)
inline __m512i _mm512_dpbusd_epi32(__m512i sums, __m512i a, __m512i b) {
    return __builtin_ia32_vpdpbusd_v16si(sums, a, b);
}
inline __m512i _mm512_dpwssd_epi32(__m512i sums, __m512i a, __m512i b) {
    return __builtin_ia32_vpdpwssd_v16si(sums, a, b);
}
#endif
#if defined(__AVX512BW__)
typedef char Chars64 __attribute__((vector_size(64)));
inline __m512i _mm512_shuffle_epi8(__m512i a, __m512i places) {
    return (__m512i)__builtin_ia32_pshufb512_mask((Chars64)a, (Chars64)places, Chars64{}, ALL);
}
#endif
#if defined(__AVX512BW__) && !defined(__AVX512VNNI__)
typedef short Shorts32 __attribute__((vector_size(64)));
inline __m512i _mm512_maddubs_epi16(__m512i a, __m512i b) {
    return (__m512i)__builtin_ia32_pmaddubsw512_mask((Chars64)a, (Chars64)b, Shorts32{}, ALL);
}
inline __m512i _mm512_madd_epi16(__m512i a, __m512i b) {
    return __builtin_ia32_pmaddwd512_mask((Shorts32)a, (Shorts32)b, __m512i{}, ALL);
}
#endif
#if defined(__AVX512BF16__)
#if __GNUC__ >= 13
typedef __bf16 __m512bh __attribute__((vector_size(64), may_alias));
#else
typedef short __m512bh __attribute__((vector_size(64), may_alias));
#endif
inline __m512 _mm512_dpbf16_ps(__m512 sums, __m512bh a, __m512bh b) {
    return __builtin_ia32_dpbf16ps_v16sf(sums, a, b);
}
#endif
inline __m128i _mm_sad_epu8(__m128i a, __m128i b) { return (__m128i)__builtin_ia32_psadbw128((Chars)a, (Chars)b); }

// Lanes that are BY apart change places.
template <int BY, class Vector>
inline Vector swapped(Vector a) {
    const __m512i lanes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return __builtin_shuffle(a, lanes ^ BY);
}
inline float _mm512_reduce_add_ps(__m512 a) {
    a += swapped<8>(a), a += swapped<4>(a), a += swapped<2>(a), a += swapped<1>(a);
    return a[0];
}
inline __m512i _mm512_max_epi32(__m512i a, __m512i b) { return a > b ? a : b; }
inline int _mm512_reduce_max_epi32(__m512i a) {
    a = _mm512_max_epi32(a, swapped<8>(a)), a = _mm512_max_epi32(a, swapped<4>(a));
    a = _mm512_max_epi32(a, swapped<2>(a)), a = _mm512_max_epi32(a, swapped<1>(a));
    return a[0];
}

inline __m512 _mm512_scalef_ps(__m512 a, __m512 b) {
    return __builtin_ia32_scalefps512_mask(a, b, a, ALL, ROUNDED_AS_USUAL);
}
#define _mm512_roundscale_ps(a, how) __builtin_ia32_rndscaleps_mask(a, how, a, ALL, ROUNDED_AS_USUAL)
#define _mm512_cmp_ps_mask(a, b, how) __mmask16(__builtin_ia32_cmpps512_mask(a, b, how, ALL, ROUNDED_AS_USUAL))
inline __m512 _mm512_maskz_compress_ps(__mmask16 which, __m512 a) {
    return __builtin_ia32_compresssf512_mask(a, __m512{}, which);
}

inline __m128i _mm512_cvtepi32_epi8(__m512i a) { return (__m128i)__builtin_ia32_pmovdb512_mask(a, Chars{}, ALL); }
inline __m512i _mm512_cvtepi8_epi32(__m128i a) { return __builtin_ia32_pmovsxbd512_mask((Chars)a, __m512i{}, ALL); }
inline __m512i _mm512_cvtepu8_epi32(__m128i a) { return __builtin_ia32_pmovzxbd512_mask((Chars)a, __m512i{}, ALL); }
inline __m512i _mm512_cvtps_epi32(__m512 a) {
    return __builtin_ia32_cvtps2dq512_mask(a, __m512i{}, ALL, ROUNDED_AS_USUAL);
}
inline __m512 _mm512_cvtph_ps(__m256i a) {
    return __builtin_ia32_vcvtph2ps512_mask(a, __m512{}, ALL, ROUNDED_AS_USUAL);
}

}  // namespace
#elif defined(__AVX2__)

namespace {

typedef float __m256 __attribute__((vector_size(32), may_alias));
typedef long long __m256i __attribute__((vector_size(32), may_alias));  // as in the header
typedef long long __m128i __attribute__((vector_size(16), may_alias));
typedef char Chars __attribute__((vector_size(32)));
typedef short Shorts8 __attribute__((vector_size(16)));
typedef short Shorts16 __attribute__((vector_size(32)));
typedef int Ints8 __attribute__((vector_size(32)));

inline __m256i _mm256_maddubs_epi16(__m256i a, __m256i b) {
    return (__m256i)__builtin_ia32_pmaddubsw256((Chars)a, (Chars)b);
}
inline __m256i _mm256_shuffle_epi8(__m256i a, __m256i places) {
    return (__m256i)__builtin_ia32_pshufb256((Chars)a, (Chars)places);
}
inline __m256i _mm256_madd_epi16(__m256i a, __m256i b) {
    return (__m256i)__builtin_ia32_pmaddwd256((Shorts16)a, (Shorts16)b);
}
#if defined(__AVXVNNI__)
inline __m256i _mm256_dpbusd_avx_epi32(__m256i sums, __m256i a, __m256i b) {
    return (__m256i)__builtin_ia32_vpdpbusd_v8si((Ints8)sums, (Ints8)a, (Ints8)b);
}
inline __m256i _mm256_dpwssd_avx_epi32(__m256i sums, __m256i a, __m256i b) {
    return (__m256i)__builtin_ia32_vpdpwssd_v8si((Ints8)sums, (Ints8)a, (Ints8)b);
}
#endif
#if defined(__F16C__)
inline __m256 _mm256_cvtph_ps(__m128i a) { return __builtin_ia32_vcvtph2ps256((Shorts8)a); }
#endif

}  // namespace
#elif defined(__SSSE3__)

namespace {

typedef long long __m128i __attribute__((vector_size(16), may_alias));  // as in the header
typedef char Chars __attribute__((vector_size(16)));
typedef short Shorts8 __attribute__((vector_size(16)));

inline __m128i _mm_maddubs_epi16(__m128i a, __m128i b) {
    return (__m128i)__builtin_ia32_pmaddubsw128((Chars)a, (Chars)b);
}
inline __m128i _mm_shuffle_epi8(__m128i a, __m128i places) {
    return (__m128i)__builtin_ia32_pshufb128((Chars)a, (Chars)places);
}
inline __m128i _mm_madd_epi16(__m128i a, __m128i b) {
    return (__m128i)__builtin_ia32_pmaddwd128((Shorts8)a, (Shorts8)b);
}

}  // namespace
#endif
