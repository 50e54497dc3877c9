/* Whether this processor has AMX for bf16, and the products of linear.c and linear_int8.c in it. */
#ifndef OSAI_AMX_H
#define OSAI_AMX_H

#if defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__AVX512VBMI__) && \
    defined(__linux__)
#define OSAI_AMX
#include <stddef.h>
#include <stdint.h>

extern int osai_has_amx; /* set by osai_use_amx */
void osai_linear_amx(const uint16_t *x, const uint16_t *w, const uint16_t *bias, uint16_t *y, ptrdiff_t m, ptrdiff_t n,
                     ptrdiff_t k, uint16_t *blocks, int num_threads);
void osai_linear_int8_amx(const uint16_t *x, const uint8_t *w, const uint16_t *scales, const uint16_t *bias, uint16_t *y,
                          ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, uint16_t *blocks, uint16_t *wide, int num_threads);
#endif

#endif
