/* Sixteen floats at a time, from and to float32 or bfloat16, with whatever the processor has for it.
 *
 * Each of the two ways gives the same float32 to the bit: the same products, added in the same order. In bfloat16 they
 * differ where AVX512_BF16 multiplies pairs of its own kind.
 */
#ifndef OSAI_VECTORS_H
#define OSAI_VECTORS_H

#include <stddef.h>
#include <stdint.h>

#define INLINE static inline __attribute__((always_inline))
#define LANES 16

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#include "vectors_avx512.h"
#define OSAI_VECTORS
#elif defined(__AVX2__) && defined(__FMA__)
#include "vectors_avx2.h"
#define OSAI_VECTORS
#endif

#ifdef OSAI_VECTORS
INLINE floats get_f32(const float *p, lanes which) { return some_floats(p, which); }
INLINE void put_f32(float *p, lanes which, floats v) { put_floats(p, which, v); }
INLINE floats round_f32(floats v) { return v; }
INLINE floats get_bf16(const uint16_t *p, lanes which) { return widen(some_halves(p, which)); }
INLINE void put_bf16(uint16_t *p, lanes which, floats v) { put_halves(p, which, narrow(v)); }
INLINE floats round_bf16(floats v) { return widen(narrow(v)); }

/* e^v to 2 ulp: 2^n * e^r with |r| <= ln(2) / 2, r's part by its Taylor series (as in Cephes' expf). */
INLINE floats exp_of(floats v) {
    v = most(all(-87.3f), v); /* below, 0 is as good; of two the second stays if one is NaN */
    v = least(all(88.3f), v);
    floats n = to_integer(mul(v, all(1.44269504f)));
    floats r = sub_mul(v, n, all(0.693359375f));
    r = sub_mul(r, n, all(-2.12194440e-4f));
    floats p = all(1.9875691500e-4f);
    p = mul_add(p, r, all(1.3981999507e-3f));
    p = mul_add(p, r, all(8.3334519073e-3f));
    p = mul_add(p, r, all(4.1665795894e-2f));
    p = mul_add(p, r, all(1.6666665459e-1f));
    p = mul_add(p, r, all(5.0000001201e-1f));
    p = mul_add(p, mul(r, r), add(r, all(1.0f)));
    return times_2_to(p, n);
}

INLINE floats tanh_of(floats v) { /* 1 - 2 / (e^2v + 1) */
    floats one = all(1.0f), two = all(2.0f);
    return sub(one, quotient(two, add(exp_of(mul(v, two)), one)));
}
#endif

#endif
