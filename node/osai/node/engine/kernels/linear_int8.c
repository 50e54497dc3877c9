/* Linear layers over int8 weights: y = (x w^T) * scales + bias, x, scales, bias and y in bf16.
 *
 * Weights are a sign and a magnitude of 7 bits each, in panels as in linear.c: [inputs / 2][outputs of the panel][2],
 * bytes, in an order that unpacking puts right (see quantize_kernel.py). bf16 has a numeral for each of the 128
 * magnitudes; its two bytes come out of tables in registers, so that a pair of inputs is ready for the dot product in
 * four instructions for 32 outputs. With up to MAX_NARROW rows of x that is done as the weights are read; with more, a
 * panel is first made bf16 in the cache, and then read for every tile of rows.
 */
#if defined(__AVX512BF16__) && defined(__AVX512VBMI__) && defined(__AVX512BW__)
#include "amx.h"
#include "int8.h"
#include "threads.h"

#define PANEL 64
#define NARROW 4      /* rows of a tile: 16 sums, 4 tables and what is unpacked fit in 32 registers */
#define MAX_NARROW 16 /* rows up to which unpacking for every tile costs less than a panel in bf16 */
#define MAX_WIDE 6
#define AHEAD 4096

typedef struct {
    const uint32_t *x; /* pairs of inputs, in tiles [steps][rows of the tile] */
    const uint8_t *w;
    const uint16_t *scales, *bias;
    uint16_t *y, *scratch; /* scratch: [threads][2 * steps * PANEL] */
    ptrdiff_t m, n, steps;
    int num_threads, tile;
} int8_args;

INLINE void clear(__m512 (*sums)[4], int num_x) {
    for (int i = 0; i < num_x; i++)
        for (int j = 0; j < 4; j++) sums[i][j] = _mm512_setzero_ps();
}

/* One tile of x times one panel as it lies in memory. */
INLINE void tile_narrow(const uint32_t *x, const uint8_t *w, ptrdiff_t steps, int num_x, const tables *t,
                        __m512 sums[MAX_WIDE][4]) {
    clear(sums, num_x);
    for (ptrdiff_t step = 0; step < steps; step++, w += 2 * PANEL, x += num_x) {
        _mm_prefetch((const char *)w + AHEAD, _MM_HINT_T0);
        _mm_prefetch((const char *)w + AHEAD + 64, _MM_HINT_T0);
        __m512i ws[4];
        unpack(w, t, ws);
        unpack(w + 64, t, ws + 2);
        for (int i = 0; i < num_x; i++)
            for (int j = 0; j < 4; j++)
                sums[i][j] = _mm512_dpbf16_ps(sums[i][j], (__m512bh)_mm512_set1_epi32((int)x[i]), (__m512bh)ws[j]);
    }
}

/* One tile of x times one panel that has been made bf16. */
INLINE void tile_wide(const uint32_t *x, const uint16_t *w, ptrdiff_t steps, int num_x, __m512 sums[MAX_WIDE][4]) {
    clear(sums, num_x);
    for (ptrdiff_t step = 0; step < steps; step++, w += 2 * PANEL, x += num_x)
        for (int j = 0; j < 4; j++) {
            __m512i ws = _mm512_load_si512(w + 32 * j);
            for (int i = 0; i < num_x; i++)
                sums[i][j] = _mm512_dpbf16_ps(sums[i][j], (__m512bh)_mm512_set1_epi32((int)x[i]), (__m512bh)ws);
        }
}

INLINE void put_tile(const int8_args *a, __m512 sums[MAX_WIDE][4], int num_x, ptrdiff_t row, ptrdiff_t first) {
    for (int j = 0; j < 4 && first + LANES * j < a->n; j++) {
        ptrdiff_t at = first + LANES * j;
        __mmask16 mask = first_lanes(a->n - at);
        __m512 scales = get_bf16(a->scales + at, mask), bias = _mm512_setzero_ps();
        if (a->bias) bias = get_bf16(a->bias + at, mask);
        for (int i = 0; i < num_x; i++)
            put_bf16(a->y + (row + i) * a->n + at, mask, _mm512_fmadd_ps(sums[i][j], scales, bias));
    }
}

#define CASE(NUM_X, TILE)                                                                                              \
    case NUM_X:                                                                                                        \
        TILE;                                                                                                          \
        put_tile(a, sums, NUM_X, row, first);                                                                          \
        break;

static void share(void *data) {
    const int8_args *a = data;
    tables t = bf16_bytes();
    long first, end;
    share_of(a->n, PANEL, a->num_threads, &first, &end);
    int me = a->num_threads > 1 && osai_parallel ? osai_thread_num() : 0;
    uint16_t *wide = a->scratch + (ptrdiff_t)me * a->steps * 2 * PANEL;
    for (; first < end; first += PANEL) {
        const uint8_t *w = a->w + first * a->steps * 2;
        const uint32_t *x = a->x;
        int narrow = a->m <= MAX_NARROW;
        for (ptrdiff_t at = 0; !narrow && at < a->steps * 2 * PANEL; at += 64) {
            __m512i pairs[2];
            unpack(w + at, &t, pairs);
            _mm512_store_si512(wide + at, pairs[0]);
            _mm512_store_si512(wide + at + 32, pairs[1]);
        }
        for (ptrdiff_t row = 0; row < a->m; row += a->tile) {
            __m512 sums[MAX_WIDE][4];
            int num_x = a->m - row < a->tile ? (int)(a->m - row) : a->tile;
            if (narrow) {
                switch (num_x) {
                    CASE(1, tile_narrow(x, w, a->steps, 1, &t, sums))
                    CASE(2, tile_narrow(x, w, a->steps, 2, &t, sums))
                    CASE(3, tile_narrow(x, w, a->steps, 3, &t, sums))
                    CASE(4, tile_narrow(x, w, a->steps, 4, &t, sums))
                }
            } else {
                switch (num_x) {
                    CASE(1, tile_wide(x, wide, a->steps, 1, sums))
                    CASE(2, tile_wide(x, wide, a->steps, 2, sums))
                    CASE(3, tile_wide(x, wide, a->steps, 3, sums))
                    CASE(4, tile_wide(x, wide, a->steps, 4, sums))
                    CASE(5, tile_wide(x, wide, a->steps, 5, sums))
                    CASE(6, tile_wide(x, wide, a->steps, 6, sums))
                }
            }
            x += num_x * a->steps;
        }
    }
}

/* x in tiles: [steps][rows of the tile], tile after tile; x itself where it has one row. */
static const uint32_t *in_tiles(const uint32_t *x, ptrdiff_t m, ptrdiff_t steps, int tile, uint32_t *tiles) {
    if (m == 1) return x;
    uint32_t *out = tiles;
    for (ptrdiff_t row = 0; row < m; row += tile) {
        ptrdiff_t num_x = m - row < tile ? m - row : tile;
        for (ptrdiff_t step = 0; step < steps; step++)
            for (ptrdiff_t i = 0; i < num_x; i++) *out++ = x[(row + i) * steps + step];
    }
    return tiles;
}

/* x [m, k], w as above, scales and bias [n] (or NULL), y [m, n]; tiles: room for x; scratch: 64-byte aligned, room for a
 * panel in bf16 for every thread. k is even. */
void osai_linear_int8_bf16(const uint16_t *x, const uint8_t *w, const uint16_t *scales, const uint16_t *bias,
                           uint16_t *y, ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, uint32_t *tiles, uint16_t *scratch,
                           int num_threads) {
#ifdef OSAI_AMX
    if (osai_has_amx) {
        osai_linear_int8_amx(x, w, scales, bias, y, m, n, k, (uint16_t *)tiles, scratch, num_threads);
        return;
    }
#endif
    int tile = m <= MAX_NARROW ? NARROW : MAX_WIDE;
    const uint32_t *rows = in_tiles((const uint32_t *)x, m, k / 2, tile, tiles);
    int8_args args = {rows, w, scales, bias, y, scratch, m, n, k / 2, num_threads, tile};
    in_threads(share, &args, num_threads);
}
#endif
