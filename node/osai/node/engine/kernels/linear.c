/* Linear layers: y = x w^T + bias, over weights that lie in memory in the order in which they are read.
 *
 * A decode step is bound by how fast it reads the weights, a prefill step by arithmetic. Weights come in panels of
 * PANEL outputs: for every input (every pair of inputs in bf16), the weights of all outputs of the panel. So one stream
 * is read from its begin to its end, once for up to MAX_X rows of x; more rows find the panel in the cache. Sums are
 * float32. The order of additions of an output does not depend on how many rows x has: a session gets the same numbers
 * alone and in a batch.
 *
 * x comes in tiles of up to MAX_X rows, each [inputs][rows], so that one tile is read as one stream too.
 */
#ifdef __AVX512F__ /* elsewhere oneDNN does this, see packed_linear.py */
#include "amx.h"
#include "kernels.h"
#include "threads.h"

#define PANEL 64 /* outputs: 4 registers of 16 floats */
#define MAX_X 6  /* rows of x in a tile: 6 * 4 sums, 4 of w and the broadcast of x fit in 32 registers */
/* How weights are fetched ahead. Zen 4: one step; 512 bytes are 12% slower, in turns in one process, and 128 are slower
 * with more rows. Granite Rapids, where what is fetched by NTA stays out of the second-level cache, so that each further
 * tile of rows fetches it from memory again: that took 1.9 to 4.4 times as long as this. */
#ifdef OSAI_AMD
#define AHEAD 256 /* bytes */
#define HINT _MM_HINT_NTA
#else
#define AHEAD 4096
#define HINT _MM_HINT_T0
#endif

typedef struct {
    const void *x, *w, *bias;
    void *y;
    ptrdiff_t m, n, k;
    int num_threads;
} linear_args;

/* One tile of x times one panel: `num_steps` steps of 4 * 64 bytes of w and 4 * num_x bytes of x. */
#define DEFINE_TILE(NAME, DOT)                                                                                         \
    INLINE void NAME(const uint32_t *x, const char *w, ptrdiff_t num_steps, int num_x, __m512 sums[MAX_X][4]) {        \
        for (int i = 0; i < num_x; i++)                                                                                \
            for (int j = 0; j < 4; j++) sums[i][j] = _mm512_setzero_ps();                                              \
        for (ptrdiff_t step = 0; step < num_steps; step++, w += 4 * 64, x += num_x) {                                  \
            __m512i ws[4];                                                                                             \
            for (int j = 0; j < 4; j++) {                                                                              \
                _mm_prefetch(w + AHEAD + 64 * j, HINT);                                                                \
                ws[j] = _mm512_load_si512(w + 64 * j);                                                                 \
            }                                                                                                          \
            for (int i = 0; i < num_x; i++) {                                                                          \
                __m512i xs = _mm512_set1_epi32((int)x[i]);                                                             \
                for (int j = 0; j < 4; j++) sums[i][j] = DOT(sums[i][j], xs, ws[j]);                                   \
            }                                                                                                          \
        }                                                                                                              \
    }

INLINE __m512 dot_f32(__m512 sum, __m512i a, __m512i b) {
    return _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), sum);
}
DEFINE_TILE(tile_f32, dot_f32)

#ifdef __AVX512BF16__
INLINE __m512 dot_bf16(__m512 sum, __m512i a, __m512i b) {
    return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
}
DEFINE_TILE(tile_bf16, dot_bf16)
#endif

/* All of x times the panels of one thread's share. */
#define DEFINE_LINEAR(NAME, T, PER_STEP)                                                                               \
    static void put_tile_##NAME(const linear_args *a, __m512 sums[MAX_X][4], int num_x, ptrdiff_t row, ptrdiff_t first) { \
        const T *bias = a->bias;                                                                                       \
        for (int i = 0; i < num_x; i++)                                                                                \
            for (int j = 0; j < 4; j++) {                                                                              \
                ptrdiff_t at = first + 16 * j;                                                                         \
                if (at >= a->n) break;                                                                                 \
                __mmask16 mask = first_lanes(a->n - at);                                                               \
                __m512 sum = bias ? _mm512_add_ps(sums[i][j], get_##NAME(bias + at, mask)) : sums[i][j];               \
                put_##NAME((T *)a->y + (row + i) * a->n + at, mask, sum);                                              \
            }                                                                                                          \
    }                                                                                                                  \
    static void share_##NAME(void *data) {                                                                             \
        const linear_args *a = data;                                                                                   \
        ptrdiff_t num_steps = a->k / PER_STEP, first, end;                                                             \
        share_of(a->n, PANEL, a->num_threads, &first, &end);                                                           \
        for (; first < end; first += PANEL) {                                                                          \
            const char *w = (const char *)a->w + first * a->k * (ptrdiff_t)sizeof(T);                                  \
            const uint32_t *x = a->x;                                                                                  \
            for (ptrdiff_t row = 0; row < a->m; row += MAX_X) {                                                        \
                __m512 sums[MAX_X][4];                                                                                 \
                int num_x = a->m - row < MAX_X ? (int)(a->m - row) : MAX_X;                                            \
                switch (num_x) {                                                                                       \
                case 1: tile_##NAME(x, w, num_steps, 1, sums); put_tile_##NAME(a, sums, 1, row, first); break;         \
                case 2: tile_##NAME(x, w, num_steps, 2, sums); put_tile_##NAME(a, sums, 2, row, first); break;         \
                case 3: tile_##NAME(x, w, num_steps, 3, sums); put_tile_##NAME(a, sums, 3, row, first); break;         \
                case 4: tile_##NAME(x, w, num_steps, 4, sums); put_tile_##NAME(a, sums, 4, row, first); break;         \
                case 5: tile_##NAME(x, w, num_steps, 5, sums); put_tile_##NAME(a, sums, 5, row, first); break;         \
                default: tile_##NAME(x, w, num_steps, 6, sums); put_tile_##NAME(a, sums, 6, row, first);               \
                }                                                                                                      \
                x += num_x * num_steps;                                                                                \
            }                                                                                                          \
        }                                                                                                              \
    }                                                                                                                  \
    void osai_linear_##NAME(const T *x, const T *w, const T *bias, T *y, ptrdiff_t m, ptrdiff_t n, ptrdiff_t k,        \
                            uint32_t *scratch, int num_threads) {                                                      \
        if (tiled_##NAME(x, w, bias, y, m, n, k, scratch, num_threads)) return;                                        \
        linear_args args = {tiles_of((const uint32_t *)x, m, k / PER_STEP, scratch), w, bias, y, m, n, k, num_threads}; \
        in_threads(share_##NAME, &args, num_threads);                                                                  \
    }

/* x in tiles: [num_steps][rows of the tile], tile after tile; x itself where it has one row. */
static const uint32_t *tiles_of(const uint32_t *x, ptrdiff_t m, ptrdiff_t num_steps, uint32_t *tiles) {
    if (m == 1) return x;
    uint32_t *out = tiles;
    for (ptrdiff_t row = 0; row < m; row += MAX_X) {
        ptrdiff_t num_x = m - row < MAX_X ? m - row : MAX_X;
        for (ptrdiff_t step = 0; step < num_steps; step++)
            for (ptrdiff_t i = 0; i < num_x; i++) *out++ = x[(row + i) * num_steps + step];
    }
    return tiles;
}

/* Whether the product was left to AMX, whatever the number of rows: see linear_amx.c. */
#define tiled_f32(...) 0
#ifdef OSAI_AMX
#define tiled_bf16(x, w, bias, y, m, n, k, scratch, num_threads)                                                       \
    (osai_has_amx && (osai_linear_amx(x, w, bias, y, m, n, k, (uint16_t *)scratch, num_threads), 1))
#else
#define tiled_bf16(...) 0
#endif

DEFINE_LINEAR(f32, float, 1)
#ifdef __AVX512BF16__
DEFINE_LINEAR(bf16, uint16_t, 2)
#endif
#endif
