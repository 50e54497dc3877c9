/* Sixteen floats in two registers of AVX2, see vectors.h. */
#ifndef OSAI_VECTORS_AVX2_H
#define OSAI_VECTORS_AVX2_H

#include <immintrin.h>
#include <string.h>

#define NUM_FLOATS 8 /* that 16 registers hold */

typedef struct { __m256 low, high; } floats;
typedef struct { __m256i low, high; } words; /* sixteen words of 32 bits: floats, or pairs of bf16 */
typedef __m256i halves;                      /* sixteen bf16 */
typedef int lanes, pairs;                    /* how many, of sixteen words or of 32 bf16 */

INLINE lanes first_lanes(ptrdiff_t count) { return count >= LANES ? LANES : count > 0 ? (lanes)count : 0; }
INLINE pairs first_pairs(ptrdiff_t count) { return count >= 2 * LANES ? 2 * LANES : (pairs)count; }

#define TWO(INTRINSIC) (floats){INTRINSIC(a.low, b.low), INTRINSIC(a.high, b.high)}

INLINE floats all(float f) { return (floats){_mm256_set1_ps(f), _mm256_set1_ps(f)}; }
INLINE floats zeros(void) { return all(0.0f); }
INLINE floats add(floats a, floats b) { return TWO(_mm256_add_ps); }
INLINE floats sub(floats a, floats b) { return TWO(_mm256_sub_ps); }
INLINE floats mul(floats a, floats b) { return TWO(_mm256_mul_ps); }
INLINE floats quotient(floats a, floats b) { return TWO(_mm256_div_ps); }
INLINE floats most(floats a, floats b) { return TWO(_mm256_max_ps); }
INLINE floats least(floats a, floats b) { return TWO(_mm256_min_ps); }
INLINE floats root(floats a) { return (floats){_mm256_sqrt_ps(a.low), _mm256_sqrt_ps(a.high)}; }
INLINE floats mul_add(floats a, floats b, floats sum) {
    return (floats){_mm256_fmadd_ps(a.low, b.low, sum.low), _mm256_fmadd_ps(a.high, b.high, sum.high)};
}
INLINE floats sub_mul(floats from, floats a, floats b) {
    return (floats){_mm256_fnmadd_ps(a.low, b.low, from.low), _mm256_fnmadd_ps(a.high, b.high, from.high)};
}
#undef TWO

#define NEAREST (_MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
INLINE floats to_integer(floats a) { return (floats){_mm256_round_ps(a.low, NEAREST), _mm256_round_ps(a.high, NEAREST)}; }
#undef NEAREST

/* n is whole, from -126 to 127. */
INLINE __m256 power_of_2(__m256 n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
}
INLINE floats times_2_to(floats a, floats n) { return mul(a, (floats){power_of_2(n.low), power_of_2(n.high)}); }

INLINE __m256 below(int count) { /* all bits of the first lanes */
    __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(count), index));
}
INLINE floats only(lanes which, floats a, floats otherwise) {
    return (floats){_mm256_blendv_ps(otherwise.low, a.low, below(which)),
                    _mm256_blendv_ps(otherwise.high, a.high, below(which - 8))};
}

/* In the order of _mm512_reduce_add_ps. */
INLINE float sum_of(floats a) {
    __m256 half = _mm256_add_ps(a.high, a.low);
    __m128 four = _mm_add_ps(_mm256_extractf128_ps(half, 1), _mm256_castps256_ps128(half));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}
INLINE float most_of(floats a) {
    __m256 half = _mm256_max_ps(a.high, a.low);
    __m128 four = _mm_max_ps(_mm256_extractf128_ps(half, 1), _mm256_castps256_ps128(half));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}
INLINE float first_of(floats a) { return _mm256_cvtss_f32(a.low); }

/* A row's end is copied: there are no masks for 16 bits, and those for 32 are slow on AMD's. */
INLINE floats some_floats(const float *p, lanes which) {
    float end[LANES] = {0};
    if (which < LANES) p = memcpy(end, p, (size_t)which * sizeof *p);
    return (floats){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}
INLINE void put_floats(float *p, lanes which, floats v) {
    float end[LANES], *to = which < LANES ? end : p;
    _mm256_storeu_ps(to, v.low);
    _mm256_storeu_ps(to + 8, v.high);
    if (which < LANES) memcpy(p, end, (size_t)which * sizeof *p);
}
INLINE halves some_halves(const uint16_t *p, lanes which) {
    uint16_t end[LANES] = {0};
    if (which < LANES) p = memcpy(end, p, (size_t)which * sizeof *p);
    return _mm256_loadu_si256((const __m256i *)p);
}
INLINE void put_halves(uint16_t *p, lanes which, halves v) {
    uint16_t end[LANES];
    _mm256_storeu_si256((__m256i *)(which < LANES ? end : p), v);
    if (which < LANES) memcpy(p, end, (size_t)which * sizeof *p);
}

INLINE __m256 widen_8(__m128i v) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(v), 16)); }
INLINE floats widen(halves v) {
    return (floats){widen_8(_mm256_castsi256_si128(v)), widen_8(_mm256_extracti128_si256(v, 1))};
}
INLINE __m256i narrow_8(__m256 v) { /* to the nearest, ties to even; NaN stays NaN */
    __m256i bits = _mm256_castps_si256(v), odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256 up = _mm256_castsi256_ps(_mm256_add_epi32(bits, _mm256_add_epi32(_mm256_set1_epi32(0x7fff), odd)));
    __m256 nan = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fc00000));
    return _mm256_srli_epi32(_mm256_castps_si256(_mm256_blendv_ps(up, nan, _mm256_cmp_ps(v, v, _CMP_UNORD_Q))), 16);
}
INLINE halves narrow(floats v) { /* packing goes by 128 bits */
    return _mm256_permute4x64_epi64(_mm256_packus_epi32(narrow_8(v.low), narrow_8(v.high)), 0xd8);
}

/* 64 bytes, and the product of two of them added to sums. */
INLINE words words_at(const void *p) { /* aligned to 64 bytes */
    return (words){_mm256_load_si256(p), _mm256_load_si256((const __m256i *)p + 1)};
}
INLINE words all_words(uint32_t word) { return (words){_mm256_set1_epi32((int)word), _mm256_set1_epi32((int)word)}; }
INLINE words words_f32(const float *p, lanes which) {
    floats v = some_floats(p, which);
    return (words){_mm256_castps_si256(v.low), _mm256_castps_si256(v.high)};
}
INLINE words words_bf16(const uint16_t *p, pairs which) {
    return (words){some_halves(p, first_lanes(which)), some_halves(p + LANES, first_lanes(which - LANES))};
}
INLINE __m256 dot_8(__m256 sum, __m256i a, __m256i b) {
    return _mm256_fmadd_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), sum);
}
INLINE __m256 dot_8_pairs(__m256 sum, __m256i a, __m256i b) { /* the first of each pair, then the second */
    __m256i upper = _mm256_set1_epi32((int)0xffff0000);
    sum = dot_8(sum, _mm256_slli_epi32(a, 16), _mm256_slli_epi32(b, 16));
    return dot_8(sum, _mm256_and_si256(a, upper), _mm256_and_si256(b, upper));
}
INLINE floats dot_f32(floats sum, words a, words b) {
    return (floats){dot_8(sum.low, a.low, b.low), dot_8(sum.high, a.high, b.high)};
}
INLINE floats dot_bf16(floats sum, words a, words b) {
    return (floats){dot_8_pairs(sum.low, a.low, b.low), dot_8_pairs(sum.high, a.high, b.high)};
}

INLINE __m256 unpacked_sums(__m256 a, __m256 b) { return _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b)); }
INLINE __m256 sums_of_8(__m256 a, __m256 b, __m256 c, __m256 d) { /* a b c d in each 128 bits */
    __m256d ab = _mm256_castps_pd(unpacked_sums(a, b)), cd = _mm256_castps_pd(unpacked_sums(c, d));
    return _mm256_add_ps(_mm256_castpd_ps(_mm256_unpacklo_pd(ab, cd)), _mm256_castpd_ps(_mm256_unpackhi_pd(ab, cd)));
}
/* The sums over the lanes of four vectors, in the order of vectors_avx512.h. */
INLINE __m128 add_lanes(floats a, floats b, floats c, floats d) {
    __m256 half = _mm256_add_ps(sums_of_8(a.low, b.low, c.low, d.low), sums_of_8(a.high, b.high, c.high, d.high));
    return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

#endif
