/* linear.c's product in bf16 on processors with AMX: eight tiles of 16 x 64 bytes in place of 32 registers.
 *
 * The panels are as there: pairs of inputs by outputs, which is how a tile of weights wants to lie. A block of up to 16
 * rows of x meets all four tiles of a panel's outputs, one of up to 32 rows two at a time. The order of additions of an
 * output is the same for every number of rows, one included, but not that of linear.c: a process uses one of the two.
 */
#include "amx.h"
#ifdef OSAI_AMX
#include <sys/syscall.h>
#include <unistd.h>

#include "kernels.h"
#include "threads.h"

#define PANEL 64    /* outputs: 4 tiles */
#define STEP 32     /* inputs: 16 pairs, the rows of a tile of weights */
#define BLOCK 32    /* rows of x: 2 tiles */
#define PAIR_BYTES 256 /* of a panel */
#define AHEAD 4096  /* bytes: a step, see linear.c */

typedef struct {
    const uint16_t *x, *blocks, *bias; /* blocks: all whole steps of x, see blocks_of */
    const char *w;
    uint16_t *y;
    ptrdiff_t m, n, k;
    int num_threads;
} amx_args;

typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} __attribute__((packed, aligned(64))) tile_config;

int osai_has_amx = 0;

/* Ask Linux for the tiles' state, once a process; whether they may be used. See Documentation/arch/x86/xstate.rst. */
int osai_use_amx(void) {
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    osai_has_amx = syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
    return osai_has_amx;
}

/* gcc's tile instructions don't say that they read memory. */
INLINE void written(void) { __asm__ volatile("" ::: "memory"); }

/* Tiles 0 to 3 are sums, 4 and 5 rows of x, 6 and 7 weights. With up to 16 rows all sums are of these. */
static void configure(ptrdiff_t num_rows) {
    tile_config config = {.palette = 1};
    uint8_t upper = (uint8_t)(num_rows < 16 ? num_rows : 16), lower = (uint8_t)(num_rows > 16 ? num_rows - 16 : upper);
    for (int i = 0; i < 8; i++) config.row_bytes[i] = 64, config.rows[i] = 16;
    config.rows[0] = config.rows[1] = config.rows[4] = upper;
    config.rows[2] = config.rows[3] = config.rows[5] = lower;
    written();
    _tile_loadconfig(&config);
}

INLINE void fetch_ahead(const char *w) {
    for (int i = 0; i < STEP / 2 * PAIR_BYTES; i += 64) _mm_prefetch(w + AHEAD + i, _MM_HINT_T0);
}

/* One step of up to 16 rows with all outputs of the panel. */
INLINE void step_narrow(const uint16_t *x, const char *w) {
    _tile_loadd(4, x, 2 * STEP);
    _tile_loadd(6, w, PAIR_BYTES);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, w + 64, PAIR_BYTES);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(6, w + 128, PAIR_BYTES);
    _tile_dpbf16ps(2, 4, 6);
    _tile_loadd(7, w + 192, PAIR_BYTES);
    _tile_dpbf16ps(3, 4, 7);
}

/* One step of up to 32 rows with half the outputs. */
INLINE void step_wide(const uint16_t *x, const char *w) {
    _tile_loadd(6, w, PAIR_BYTES);
    _tile_loadd(4, x, 2 * STEP);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, w + 64, PAIR_BYTES);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, x + 16 * STEP, 2 * STEP);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
}

/* Inputs beyond the last whole step, filled up with zeros: rows of x, and weights. */
typedef struct {
    uint16_t x[BLOCK][STEP] __attribute__((aligned(64)));
    char w[STEP / 2 * PAIR_BYTES] __attribute__((aligned(64)));
} rest_of_inputs;

static void put(const amx_args *a, const float *sums, ptrdiff_t num_rows, ptrdiff_t row, ptrdiff_t first) {
    if (first >= a->n) return;
    __mmask16 mask = first_lanes(a->n - first);
    __m512 bias = a->bias ? get_bf16(a->bias + first, mask) : _mm512_setzero_ps();
    for (ptrdiff_t i = 0; i < num_rows; i++)
        put_bf16(a->y + (row + i) * a->n + first, mask, _mm512_add_ps(_mm512_load_ps(sums + 16 * i), bias));
}

INLINE void clear(void) {
    written();
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}

INLINE void store(float sums[4][16 * 16]) {
    _tile_stored(0, sums[0], 64);
    _tile_stored(1, sums[1], 64);
    _tile_stored(2, sums[2], 64);
    _tile_stored(3, sums[3], 64);
    written();
}

static void block_narrow(const amx_args *a, ptrdiff_t row, ptrdiff_t num_rows, ptrdiff_t first, const char *w,
                         const rest_of_inputs *rest, int is_new) {
    float sums[4][16 * 16] __attribute__((aligned(64)));
    ptrdiff_t num_steps = a->k / STEP;
    const uint16_t *x = a->blocks + row * num_steps * STEP;
    clear();
    for (ptrdiff_t step = 0; step < num_steps; step++, w += STEP / 2 * PAIR_BYTES, x += num_rows * STEP) {
        if (is_new) fetch_ahead(w);
        step_narrow(x, w);
    }
    if (a->k % STEP) step_narrow(rest->x[0], rest->w);
    store(sums);
    for (int j = 0; j < 4; j++) put(a, sums[j], num_rows, row, first + 16 * j);
}

static void block_wide(const amx_args *a, ptrdiff_t row, ptrdiff_t num_rows, ptrdiff_t first, const char *panel,
                       const rest_of_inputs *rest, int is_new) {
    float sums[4][16 * 16] __attribute__((aligned(64)));
    ptrdiff_t num_steps = a->k / STEP;
    for (int half = 0; half < 2; half++) {
        const char *w = panel + 128 * half;
        const uint16_t *x = a->blocks + row * num_steps * STEP;
        clear();
        for (ptrdiff_t step = 0; step < num_steps; step++, w += STEP / 2 * PAIR_BYTES, x += num_rows * STEP) {
            if (is_new && !half) fetch_ahead(w);
            step_wide(x, w);
        }
        if (a->k % STEP) step_wide(rest->x[0], rest->w + 128 * half);
        store(sums);
        for (int j = 0; j < 2; j++) {
            put(a, sums[j], 16, row, first + 32 * half + 16 * j);
            put(a, sums[2 + j], num_rows - 16, row + 16, first + 32 * half + 16 * j);
        }
    }
}

static void share(void *data) {
    const amx_args *a = data;
    ptrdiff_t first, end, tail = a->k % STEP, configured = 0;
    rest_of_inputs rest;
    memset(&rest, 0, sizeof rest);
    share_of(a->n, PANEL, a->num_threads, &first, &end);
    for (; first < end; first += PANEL) {
        const char *w = a->w + first * a->k * 2;
        memcpy(rest.w, w + (a->k - tail) / 2 * PAIR_BYTES, (size_t)(tail / 2 * PAIR_BYTES));
        for (ptrdiff_t row = 0; row < a->m; row += BLOCK) {
            ptrdiff_t num_rows = a->m - row < BLOCK ? a->m - row : BLOCK;
            for (ptrdiff_t i = 0; tail && i < num_rows; i++)
                memcpy(rest.x[i], a->x + (row + i + 1) * a->k - tail, (size_t)(2 * tail));
            if (configured != num_rows) configure(configured = num_rows);
            (num_rows > 16 ? block_wide : block_narrow)(a, row, num_rows, first, w, &rest, row == 0);
        }
    }
    _tile_release();
}

/* x block by block, [whole steps][rows of the block][STEP]: a tile is 1 KiB in a row; x itself where it has one row. */
static const uint16_t *blocks_of(const uint16_t *x, ptrdiff_t m, ptrdiff_t k, uint16_t *blocks) {
    if (m == 1) return x;
    uint16_t *out = blocks;
    for (ptrdiff_t row = 0; row < m; row += BLOCK) {
        ptrdiff_t num_rows = m - row < BLOCK ? m - row : BLOCK;
        for (ptrdiff_t step = 0; step < k / STEP; step++)
            for (ptrdiff_t i = 0; i < num_rows; i++, out += STEP)
                _mm512_storeu_si512(out, _mm512_loadu_si512(x + (row + i) * k + step * STEP));
    }
    return blocks;
}

void osai_linear_amx(const uint16_t *x, const uint16_t *w, const uint16_t *bias, uint16_t *y, ptrdiff_t m, ptrdiff_t n,
                     ptrdiff_t k, uint16_t *scratch, int num_threads) {
    amx_args args = {x, blocks_of(x, m, k, scratch), bias, (const char *)w, y, m, n, k, num_threads};
    in_threads(share, &args, num_threads);
}
#endif
