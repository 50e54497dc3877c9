/* The products of linear.c in bf16 and of linear_int8.c on processors with AMX: eight tiles of 16 x 64 bytes in place of
 * 32 registers.
 *
 * The panels are as there: pairs of inputs by outputs, which is how a tile of weights wants to lie. A block of up to 16
 * rows of x meets all four tiles of a panel's outputs, one of up to 32 rows two at a time. The order of additions of an
 * output is the same for every number of rows, one included, but not that of those: a process uses one of the two. Weights
 * of 8 bits are made bf16 step by step as the first block of rows comes to them, and stay so for the other blocks.
 */
#include "amx.h"
#ifdef OSAI_AMX
#include <sys/syscall.h>
#include <unistd.h>

#include "int8.h"
#include "kernels.h"
#include "threads.h"

#define PANEL 64    /* outputs: 4 tiles */
#define STEP 32     /* inputs: 16 pairs, the rows of a tile of weights */
#define BLOCK 32    /* rows of x: 2 tiles */
#define PAIR_BYTES 256 /* of a panel */
#define STEP_BYTES (STEP / 2 * PAIR_BYTES)
#define AHEAD 4096  /* bytes: a step, see linear.c */

typedef struct {
    const uint16_t *x, *blocks; /* blocks: all whole steps of x, see blocks_of */
    const uint16_t *scales;     /* [n], of weights of 8 bits; NULL where they are bf16 */
    uint16_t *wide;             /* room for a panel of those in bf16, for every thread */
    const uint16_t *bias;       /* [n] or NULL */
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

INLINE void fetch_ahead(const char *w, int num_bytes) {
    for (int i = 0; i < num_bytes; i += 64) _mm_prefetch(w + AHEAD + i, _MM_HINT_T0);
}

/* Weights as they lie in memory: bf16, or 8 bits, which `tables` turn into that. */
typedef struct {
    const char *bytes;
    const tables *tables; /* NULL for bf16 */
} panel_source;

INLINE void widen_pairs(const panel_source *from, ptrdiff_t first, ptrdiff_t num_pairs, char *to) {
    for (ptrdiff_t at = 0; at < num_pairs * PAIR_BYTES / 2; at += 64) {
        __m512i pairs[2];
        unpack((const uint8_t *)from->bytes + first * PAIR_BYTES / 2 + at, from->tables, pairs);
        _mm512_store_si512(to + 2 * at, pairs[0]);
        _mm512_store_si512(to + 2 * at + 64, pairs[1]);
    }
}

/* The first block of rows comes near a step: one ahead, as tiles that were written just now are slow to load. */
INLINE void make_ready(const panel_source *from, ptrdiff_t step, ptrdiff_t num_steps, const char *w) {
    if (step == num_steps) return;
    if (!from->tables) {
        fetch_ahead(w, STEP_BYTES);
        return;
    }
    fetch_ahead(from->bytes + step * STEP_BYTES / 2, STEP_BYTES / 2);
    widen_pairs(from, step * STEP / 2, STEP / 2, (char *)w);
    written();
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
    char w[STEP_BYTES] __attribute__((aligned(64)));
} rest_of_inputs;

static void put(const amx_args *a, const float *sums, ptrdiff_t num_rows, ptrdiff_t row, ptrdiff_t first) {
    if (first >= a->n) return;
    __mmask16 mask = first_lanes(a->n - first);
    __m512 bias = a->bias ? get_bf16(a->bias + first, mask) : _mm512_setzero_ps();
    __m512 scales = a->scales ? get_bf16(a->scales + first, mask) : _mm512_set1_ps(1.0f);
    for (ptrdiff_t i = 0; i < num_rows; i++)
        put_bf16(a->y + (row + i) * a->n + first, mask, _mm512_fmadd_ps(_mm512_load_ps(sums + 16 * i), scales, bias));
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
                         const rest_of_inputs *rest, const panel_source *from) {
    float sums[4][16 * 16] __attribute__((aligned(64)));
    ptrdiff_t num_steps = a->k / STEP;
    const uint16_t *x = a->blocks + row * num_steps * STEP;
    /* what no other block comes to is kept for a few steps: it stays in the first-level cache */
    ptrdiff_t kept = from && from->tables && a->m == num_rows ? 3 : PTRDIFF_MAX;
    clear();
    if (from) make_ready(from, 0, num_steps, w);
    for (ptrdiff_t step = 0; step < num_steps; step++, x += num_rows * STEP) {
        if (from) make_ready(from, step + 1, num_steps, w + ((step + 1) & kept) * STEP_BYTES);
        step_narrow(x, w + (step & kept) * STEP_BYTES);
    }
    if (a->k % STEP) step_narrow(rest->x[0], rest->w);
    store(sums);
    for (int j = 0; j < 4; j++) put(a, sums[j], num_rows, row, first + 16 * j);
}

static void block_wide(const amx_args *a, ptrdiff_t row, ptrdiff_t num_rows, ptrdiff_t first, const char *panel,
                       const rest_of_inputs *rest, const panel_source *from) {
    float sums[4][16 * 16] __attribute__((aligned(64)));
    ptrdiff_t num_steps = a->k / STEP;
    for (int half = 0; half < 2; half++) {
        const char *w = panel + 128 * half;
        const uint16_t *x = a->blocks + row * num_steps * STEP;
        clear();
        if (from && !half) make_ready(from, 0, num_steps, panel);
        for (ptrdiff_t step = 0; step < num_steps; step++, w += STEP_BYTES, x += num_rows * STEP) {
            if (from && !half) make_ready(from, step + 1, num_steps, w + STEP_BYTES);
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
    ptrdiff_t first, end, tail = a->k % STEP, configured = 0, num_pairs = a->k / 2;
    rest_of_inputs rest;
    tables t = bf16_bytes();
    memset(&rest, 0, sizeof rest);
    share_of(a->n, PANEL, a->num_threads, &first, &end);
    char *wide = (char *)a->wide + this_thread(a->num_threads) * num_pairs * PAIR_BYTES;
    for (; first < end; first += PANEL) {
        panel_source from = {a->w + first * num_pairs * (a->scales ? 2 : 4), a->scales ? &t : NULL};
        const char *w = a->scales ? wide : from.bytes;
        if (a->scales)
            widen_pairs(&from, num_pairs - tail / 2, tail / 2, rest.w);
        else
            memcpy(rest.w, w + (num_pairs - tail / 2) * PAIR_BYTES, (size_t)(tail / 2 * PAIR_BYTES));
        for (ptrdiff_t row = 0; row < a->m; row += BLOCK) {
            ptrdiff_t num_rows = a->m - row < BLOCK ? a->m - row : BLOCK;
            for (ptrdiff_t i = 0; tail && i < num_rows; i++)
                memcpy(rest.x[i], a->x + (row + i + 1) * a->k - tail, (size_t)(2 * tail));
            if (configured != num_rows) configure(configured = num_rows);
            (num_rows > 16 ? block_wide : block_narrow)(a, row, num_rows, first, w, &rest, row ? NULL : &from);
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
                     ptrdiff_t k, uint16_t *blocks, int num_threads) {
    amx_args args = {x, blocks_of(x, m, k, blocks), NULL, NULL, bias, (const char *)w, y, m, n, k, num_threads};
    in_threads(share, &args, num_threads);
}

void osai_linear_int8_amx(const uint16_t *x, const uint8_t *w, const uint16_t *scales, const uint16_t *bias, uint16_t *y,
                          ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, uint16_t *blocks, uint16_t *wide, int num_threads) {
    amx_args args = {x, blocks_of(x, m, k, blocks), scales, wide, bias, (const char *)w, y, m, n, k, num_threads};
    in_threads(share, &args, num_threads);
}
#endif
