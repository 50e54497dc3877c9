/* Weights of 8 bits as bf16, see linear_int8.c. */
#ifndef OSAI_INT8_H
#define OSAI_INT8_H

#include "vectors.h"

typedef struct {
    __m512i high[2], low[2];
} tables;

/* The high and the low byte of every magnitude as a bf16. */
static inline tables bf16_bytes(void) {
    uint8_t bytes[4][64];
    for (int i = 0; i < 128; i++) {
        union { float f; uint32_t bits; } value = {(float)i};
        bytes[i / 64][i % 64] = (uint8_t)(value.bits >> 24);
        bytes[2 + i / 64][i % 64] = (uint8_t)(value.bits >> 16);
    }
    return (tables){{_mm512_loadu_si512(bytes[0]), _mm512_loadu_si512(bytes[1])},
                    {_mm512_loadu_si512(bytes[2]), _mm512_loadu_si512(bytes[3])}};
}

/* 64 weights, of 32 outputs, as two registers of bf16 pairs. */
INLINE void unpack(const uint8_t *w, const tables *t, __m512i out[2]) {
    __m512i q = _mm512_load_si512(w), sign = _mm512_and_si512(q, _mm512_set1_epi8((char)0x80));
    __m512i high = _mm512_or_si512(_mm512_permutex2var_epi8(t->high[0], q, t->high[1]), sign);
    __m512i low = _mm512_permutex2var_epi8(t->low[0], q, t->low[1]);
    out[0] = _mm512_unpacklo_epi8(low, high);
    out[1] = _mm512_unpackhi_epi8(low, high);
}

#endif
