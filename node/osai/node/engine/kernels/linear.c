/* Linear layers: y = x w^T + bias, over weights that lie in memory in the order in which they are read.
 *
 * A decode step is bound by how fast it reads the weights, a prefill step by arithmetic. Weights come in panels of
 * PANEL outputs: for every input (every pair of inputs in bf16), the weights of all outputs of the panel. So one stream
 * is read from its begin to its end, once for up to MAX_X rows of x; more rows find the panel in the cache. With AVX2
 * panels are narrow, and one to three rows read several side by side. Sums are float32. The order of additions of an output does not depend on how many rows x has: a session gets the same numbers
 * alone and in a batch.
 *
 * x comes in tiles of up to MAX_X rows, each [inputs][rows], so that one tile is read as one stream too.
 */
#include "kernels.h"
#ifdef OSAI_VECTORS /* elsewhere oneDNN does this, see packed_linear.py */
#include "amx.h"
#include "threads.h"

#define MAX_X 6 /* rows of x in a tile */
#if NUM_FLOATS >= 32
#define PANEL 64 /* outputs: 4 vectors; 6 * 4 sums, 4 of w and the broadcast of x fit in 32 registers */
#define ROWS_OF_TILE(m) MAX_X
#define WIDE(m) 4 /* vectors of outputs at once */
#define CASES(NAME) CASE(NAME, 1, 4) CASE(NAME, 2, 4) CASE(NAME, 3, 4) CASE(NAME, 4, 4) CASE(NAME, 5, 4) CASE(NAME, 6, 4)
#else
#define PANEL 16 /* 6 * 1 sums of two registers, one of w and the broadcast of x fit in 16 */
#define ROWS_OF_TILE(m) in_equal_parts(m, MAX_X)
#define WIDE(m) ((m) == 1 ? 4 : (m) <= 3 ? 2 : 1) /* panels: with few rows, several keep the processor busy */
#define CASES(NAME)                                                                                                    \
    CASE(NAME, 1, 4) CASE(NAME, 2, 2) CASE(NAME, 3, 2) CASE(NAME, 1, 1) CASE(NAME, 2, 1) CASE(NAME, 3, 1)              \
    CASE(NAME, 4, 1) CASE(NAME, 5, 1) CASE(NAME, 6, 1)
#endif
#define AT_MOST 4 /* vectors of outputs; weights are filled up to so many */
#define STEP_BYTES (4 * PANEL) /* an input, or a pair of them, of all outputs of a panel */
const int osai_panel = PANEL;
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

#if PANEL == LANES
/* The size of parts of m, none larger than `limit`, as equal as can be. */
INLINE ptrdiff_t in_equal_parts(ptrdiff_t m, ptrdiff_t limit) {
    ptrdiff_t num_parts = (m + limit - 1) / limit;
    return (m + num_parts - 1) / num_parts;
}
#endif

typedef struct {
    const void *x, *w, *bias;
    void *y;
    ptrdiff_t m, n, k;
    int num_threads;
} linear_args;

/* One tile of x times `wide` vectors of outputs, `apart` bytes from each other: steps of 4 * num_x bytes of x. */
#define DEFINE_TILE(NAME)                                                                                              \
    INLINE void tile_##NAME(const uint32_t *x, const char *w, ptrdiff_t apart, ptrdiff_t num_steps, int num_x, int wide,\
                            floats sums[MAX_X][AT_MOST]) {                                                             \
        for (int i = 0; i < num_x; i++)                                                                                \
            for (int j = 0; j < wide; j++) sums[i][j] = zeros();                                                       \
        for (ptrdiff_t step = 0; step < num_steps; step++, w += STEP_BYTES, x += num_x) {                              \
            words ws[AT_MOST];                                                                                         \
            for (int j = 0; j < wide; j++) {                                                                           \
                _mm_prefetch(w + apart * j + AHEAD, HINT);                                                             \
                ws[j] = words_at(w + apart * j);                                                                       \
            }                                                                                                          \
            for (int i = 0; i < num_x; i++) {                                                                          \
                words xs = all_words(x[i]);                                                                            \
                for (int j = 0; j < wide; j++) sums[i][j] = dot_##NAME(sums[i][j], xs, ws[j]);                         \
            }                                                                                                          \
        }                                                                                                              \
    }
DEFINE_TILE(f32)
DEFINE_TILE(bf16)

#define CASE(NAME, NUM_X, NUM_WIDE)                                                                                    \
    case 8 * NUM_X + NUM_WIDE:                                                                                         \
        tile_##NAME(x, w, apart, num_steps, NUM_X, NUM_WIDE, sums);                                                    \
        put_tile_##NAME(a, sums, NUM_X, NUM_WIDE, row, first);                                                         \
        break;

/* All of x times the panels of one thread's share. */
#define DEFINE_LINEAR(NAME, T, PER_STEP)                                                                               \
    static void put_tile_##NAME(const linear_args *a, floats sums[MAX_X][AT_MOST], int num_x, int wide, ptrdiff_t row, \
                                ptrdiff_t first) {                                                                     \
        const T *bias = a->bias;                                                                                       \
        for (int i = 0; i < num_x; i++)                                                                                \
            for (int j = 0; j < wide; j++) {                                                                           \
                ptrdiff_t at = first + LANES * j;                                                                      \
                if (at >= a->n) break;                                                                                 \
                lanes mask = first_lanes(a->n - at);                                                                   \
                floats sum = bias ? add(sums[i][j], get_##NAME(bias + at, mask)) : sums[i][j];                         \
                put_##NAME((T *)a->y + (row + i) * a->n + at, mask, sum);                                              \
            }                                                                                                          \
    }                                                                                                                  \
    static void share_##NAME(void *data) {                                                                             \
        const linear_args *a = data;                                                                                   \
        ptrdiff_t num_steps = a->k / PER_STEP, rows = ROWS_OF_TILE(a->m), first, end;                                  \
        ptrdiff_t apart = PANEL == LANES ? num_steps * STEP_BYTES : 64;                                                \
        int wide = WIDE(a->m);                                                                                         \
        share_of(a->n, LANES * AT_MOST, a->num_threads, &first, &end);                                                 \
        for (; first < end; first += LANES * wide) {                                                                   \
            const char *w = (const char *)a->w + first * a->k * (ptrdiff_t)sizeof(T);                                  \
            const uint32_t *x = a->x;                                                                                  \
            for (ptrdiff_t row = 0; row < a->m; row += rows) {                                                         \
                floats sums[MAX_X][AT_MOST];                                                                           \
                int num_x = a->m - row < rows ? (int)(a->m - row) : (int)rows;                                         \
                switch (8 * num_x + wide) { CASES(NAME) }                                                              \
                x += num_x * num_steps;                                                                                \
            }                                                                                                          \
        }                                                                                                              \
    }                                                                                                                  \
    void osai_linear_##NAME(const T *x, const T *w, const T *bias, T *y, ptrdiff_t m, ptrdiff_t n, ptrdiff_t k,        \
                            uint32_t *scratch, int num_threads) {                                                      \
        if (tiled_##NAME(x, w, bias, y, m, n, k, scratch, num_threads)) return;                                        \
        linear_args args = {tiles_of((const uint32_t *)x, m, k / PER_STEP, scratch), w, bias, y, m, n, k, num_threads};\
        in_threads(share_##NAME, &args, num_threads);                                                                  \
    }

/* x in tiles: [num_steps][rows of the tile], tile after tile; x itself where it has one row. */
static const uint32_t *tiles_of(const uint32_t *x, ptrdiff_t m, ptrdiff_t num_steps, uint32_t *tiles) {
    if (m == 1) return x;
    uint32_t *out = tiles;
    ptrdiff_t rows = ROWS_OF_TILE(m);
    for (ptrdiff_t row = 0; row < m; row += rows) {
        ptrdiff_t num_x = m - row < rows ? m - row : rows;
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
DEFINE_LINEAR(bf16, uint16_t, 2)
#endif
