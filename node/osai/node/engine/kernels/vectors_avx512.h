/* Sixteen floats in one register of AVX-512, see vectors.h. */
#ifndef OSAI_VECTORS_AVX512_H
#define OSAI_VECTORS_AVX512_H

#include <immintrin.h>

#define NUM_FLOATS 32 /* registers */

typedef __m512 floats;
typedef __m512i words;    /* sixteen words of 32 bits: floats, or pairs of bf16 */
typedef __m256i halves;   /* sixteen bf16 */
typedef __mmask16 lanes;  /* which of sixteen */
typedef __mmask32 pairs;  /* which of 32 bf16 */

INLINE lanes first_lanes(ptrdiff_t count) {
    return count >= LANES ? 0xffff : count > 0 ? (lanes)((1u << count) - 1) : 0;
}
INLINE pairs first_pairs(ptrdiff_t count) { return count >= 32 ? 0xffffffff : (pairs)((1u << count) - 1); }

INLINE floats zeros(void) { return _mm512_setzero_ps(); }
INLINE floats all(float f) { return _mm512_set1_ps(f); }
INLINE floats add(floats a, floats b) { return _mm512_add_ps(a, b); }
INLINE floats sub(floats a, floats b) { return _mm512_sub_ps(a, b); }
INLINE floats mul(floats a, floats b) { return _mm512_mul_ps(a, b); }
INLINE floats quotient(floats a, floats b) { return _mm512_div_ps(a, b); }
INLINE floats root(floats a) { return _mm512_sqrt_ps(a); }
INLINE floats mul_add(floats a, floats b, floats sum) { return _mm512_fmadd_ps(a, b, sum); }
INLINE floats sub_mul(floats from, floats a, floats b) { return _mm512_fnmadd_ps(a, b, from); }
INLINE floats most(floats a, floats b) { return _mm512_max_ps(a, b); }
INLINE floats least(floats a, floats b) { return _mm512_min_ps(a, b); }
INLINE floats to_integer(floats a) { return _mm512_roundscale_ps(a, 0); }
INLINE floats times_2_to(floats a, floats n) { return _mm512_scalef_ps(a, n); }
INLINE floats only(lanes which, floats a, floats otherwise) { return _mm512_mask_mov_ps(otherwise, which, a); }
INLINE float sum_of(floats a) { return _mm512_reduce_add_ps(a); }
INLINE float most_of(floats a) { return _mm512_reduce_max_ps(a); }
INLINE float first_of(floats a) { return _mm512_cvtss_f32(a); }

INLINE floats some_floats(const float *p, lanes which) { return _mm512_maskz_loadu_ps(which, p); }
INLINE void put_floats(float *p, lanes which, floats v) { _mm512_mask_storeu_ps(p, which, v); }
INLINE halves some_halves(const uint16_t *p, lanes which) { return _mm256_maskz_loadu_epi16(which, p); }
INLINE void put_halves(uint16_t *p, lanes which, halves v) { _mm256_mask_storeu_epi16(p, which, v); }

INLINE floats widen(halves v) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(v), 16));
}
#ifdef __AVX512BF16__
INLINE halves narrow(floats v) { return (halves)_mm512_cvtneps_pbh(v); }
#else
INLINE halves narrow(floats v) { /* to the nearest, ties to even; NaN stays NaN */
    words bits = _mm512_castps_si512(v), odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    words up = _mm512_add_epi32(bits, _mm512_add_epi32(_mm512_set1_epi32(0x7fff), odd));
    lanes nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_mask_mov_epi32(up, nan, _mm512_set1_epi32(0x7fc00000)), 16));
}
#endif

/* 64 bytes, and the product of two of them added to sums. */
INLINE words words_at(const void *p) { return _mm512_load_si512(p); } /* aligned to 64 bytes */
INLINE words all_words(uint32_t word) { return _mm512_set1_epi32((int)word); }
INLINE words words_f32(const float *p, lanes which) { return _mm512_maskz_loadu_epi32(which, p); }
INLINE words words_bf16(const uint16_t *p, pairs which) { return _mm512_maskz_loadu_epi16(which, p); }
INLINE floats dot_f32(floats sum, words a, words b) {
    return _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), sum);
}
#ifdef __AVX512BF16__
INLINE floats dot_bf16(floats sum, words a, words b) { return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b); }
#else
INLINE floats dot_bf16(floats sum, words a, words b) { /* the first of each pair, then the second */
    words upper = _mm512_set1_epi32((int)0xffff0000);
    sum = dot_f32(sum, _mm512_slli_epi32(a, 16), _mm512_slli_epi32(b, 16));
    return dot_f32(sum, _mm512_and_si512(a, upper), _mm512_and_si512(b, upper));
}
#endif

/* The sums over the lanes of four vectors. */
INLINE __m128 add_lanes(floats a, floats b, floats c, floats d) {
    floats ab = add(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)); /* a b a b in each 128 bits */
    floats cd = add(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    floats abcd = add(_mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd))),
                      _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd))));
    __m256 half = _mm256_add_ps(_mm512_castps512_ps256(abcd),
                                _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(abcd), 1)));
    return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

#endif
