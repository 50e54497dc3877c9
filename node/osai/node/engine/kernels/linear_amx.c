/* The products of linear.c in bf16 and of linear_int8.c on processors with AMX: eight tiles of 16 x 64 bytes in place of
 * 32 registers.
 *
 * The panels are as there: pairs of inputs by outputs, which is how a tile of weights wants to lie. A block of up to 16
 * rows of x meets all four tiles of a panel's outputs, one of up to 32 rows two at a time. The order of additions of an
 * output is the same for every number of rows, one included, but not that of those: a process uses one of the two. Weights
 * of 8 bits are made bf16 step by step as the first block of rows comes to them, and stay so for the other blocks.
 *
 * More than one block would sweep the second-level cache with every panel of many inputs. So GROUP rows meet SET
 * panels, CHUNK steps at a time, and sums that are not complete wait in memory: as float32, so that the result is the
 * same.
 */
#include "amx.h"
#ifdef OSAI_AMX
#include <sys/syscall.h>
#include <unistd.h>

#include "int8.h"
#include "kernels.h"
#include "threads.h"
#include "tiles.h"

#define BLOCK 32    /* rows of x: 2 tiles */
#define AHEAD 4096  /* bytes: a step, see linear.c */
#define CHUNK 32    /* steps: 128 KiB of a panel */
#define GROUP 256   /* rows: 512 KiB of a chunk */
#define SET 4       /* panels: 256 KiB of sums with a group */

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

int osai_has_amx = 0;

/* Ask Linux for the tiles' state, once a process; whether they may be used. See Documentation/arch/x86/xstate.rst. */
int osai_use_amx(void) {
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    osai_has_amx = syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
    return osai_has_amx;
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

/* What is multiplied at a time. */
typedef struct {
    ptrdiff_t row, num_rows;     /* a block */
    ptrdiff_t first;             /* output of the panel */
    ptrdiff_t step, end;         /* whole steps */
    const panel_source *from;    /* NULL where an earlier block has made the weights ready */
    const char *w;               /* the panel in bf16 */
    const rest_of_inputs *rest;  /* for the last step */
    float (*sums)[TILE_SUMS];    /* of the block and panel: up to 8 tiles */
} piece;

static void block_narrow(const amx_args *a, const piece *p) {
    ptrdiff_t num_steps = a->k / STEP;
    const uint16_t *x = a->blocks + (p->row * num_steps + p->step * p->num_rows) * STEP;
    /* what no other block comes to is kept for a few steps: it stays in the first-level cache */
    ptrdiff_t kept = p->from && p->from->tables && a->m == p->num_rows ? 3 : PTRDIFF_MAX;
    begin_sums(p->step == 0, p->sums);
    if (p->from) make_ready(p->from, p->step, p->end, p->w + (p->step & kept) * STEP_BYTES);
    for (ptrdiff_t step = p->step; step < p->end; step++, x += p->num_rows * STEP) {
        if (p->from) make_ready(p->from, step + 1, p->end, p->w + ((step + 1) & kept) * STEP_BYTES);
        step_narrow(x, p->w + (step & kept) * STEP_BYTES);
    }
    int complete = p->end == num_steps;
    if (complete && a->k % STEP) step_narrow(p->rest->x[0], p->rest->w);
    end_sums(p->sums);
    for (int j = 0; complete && j < 4; j++) put(a, p->sums[j], p->num_rows, p->row, p->first + 16 * j);
}

static void half_wide(const amx_args *a, const piece *p, int half, float (*sums)[TILE_SUMS]) {
    ptrdiff_t num_steps = a->k / STEP, first = p->first + 32 * half;
    const char *w = p->w + p->step * STEP_BYTES + 128 * half;
    const uint16_t *x = a->blocks + (p->row * num_steps + p->step * p->num_rows) * STEP;
    const panel_source *from = half ? NULL : p->from;
    begin_sums(p->step == 0, sums);
    if (from) make_ready(from, p->step, p->end, w);
    for (ptrdiff_t step = p->step; step < p->end; step++, w += STEP_BYTES, x += p->num_rows * STEP) {
        if (from) make_ready(from, step + 1, p->end, w + STEP_BYTES);
        step_wide(x, w);
    }
    int complete = p->end == num_steps;
    if (complete && a->k % STEP) step_wide(p->rest->x[0], p->rest->w + 128 * half);
    end_sums(sums);
    for (int j = 0; complete && j < 2; j++) {
        put(a, sums[j], 16, p->row, first + 16 * j);
        put(a, sums[2 + j], p->num_rows - 16, p->row + 16, first + 16 * j);
    }
}

/* What a thread has of its own. */
typedef struct {
    const amx_args *a;
    char *wide; /* NULL where weights are bf16 */
    tables tables;
    rest_of_inputs rest;
    float sums[SET][GROUP / BLOCK * 8][TILE_SUMS] __attribute__((aligned(64)));
    ptrdiff_t configured; /* for so many rows */
} worker;

/* The inputs of a group's panel beyond the last whole step. */
static void rest_of_weights(worker *me, const panel_source *from) {
    ptrdiff_t num_pairs = me->a->k / 2, tail = me->a->k % STEP / 2;
    if (from->tables)
        widen_pairs(from, num_pairs - tail, tail, me->rest.w);
    else
        memcpy(me->rest.w, from->bytes + (num_pairs - tail) * PAIR_BYTES, (size_t)(tail * PAIR_BYTES));
}

static void rest_of_x(worker *me, const piece *p) {
    ptrdiff_t k = me->a->k, tail = k % STEP;
    for (ptrdiff_t i = 0; tail && i < p->num_rows; i++)
        memcpy(me->rest.x[i], me->a->x + (p->row + i + 1) * k - tail, (size_t)(2 * tail));
}

/* A group's rows with a chunk of a panel: `p`, but for the rows. */
static void rows_with_chunk(worker *me, piece p, int is_last) {
    ptrdiff_t end = me->a->m - p.row < GROUP ? me->a->m : p.row + GROUP;
    if (is_last) rest_of_weights(me, p.from);
    for (; p.row < end; p.row += BLOCK, p.sums += 8, p.from = NULL) {
        p.num_rows = end - p.row < BLOCK ? end - p.row : BLOCK;
        if (is_last) rest_of_x(me, &p);
        if (me->configured != p.num_rows) configure(me->configured = p.num_rows);
        if (p.num_rows <= 16) {
            block_narrow(me->a, &p);
        } else {
            half_wide(me->a, &p, 0, p.sums);
            half_wide(me->a, &p, 1, p.sums + 4);
        }
    }
}

/* A group of rows, from `row`, with the panels of outputs [first, end), SET at most. Up to 16 rows read them once, and
 * need no chunks. */
static void group_with_set(worker *me, ptrdiff_t row, ptrdiff_t first, ptrdiff_t end) {
    const amx_args *a = me->a;
    ptrdiff_t num_steps = a->k / STEP, chunk = a->m > 16 ? CHUNK : num_steps;
    int is_last = 0;
    for (ptrdiff_t step = 0; !is_last; step += chunk) {
        is_last = num_steps - step <= chunk;
        for (ptrdiff_t i = 0; first + i * PANEL < end; i++) {
            ptrdiff_t at = first + i * PANEL;
            panel_source from = {a->w + at * a->k * (a->scales ? 1 : 2), a->scales ? &me->tables : NULL};
            piece p = {row, 0, at, step, is_last ? num_steps : step + chunk, &from,
                       a->scales ? me->wide : from.bytes, &me->rest, me->sums[i]};
            rows_with_chunk(me, p, is_last);
        }
    }
}

static void share(void *data) {
    const amx_args *a = data;
    worker me;
    me.a = a, me.tables = bf16_bytes(), me.configured = 0;
    me.wide = a->scales ? (char *)a->wide + this_thread(a->num_threads) * (a->k / 2 * PAIR_BYTES) : NULL;
    memset(&me.rest, 0, sizeof me.rest);
    ptrdiff_t begin, end;
    share_of(a->n, PANEL, a->num_threads, &begin, &end);
    for (ptrdiff_t row = 0; row < a->m; row += GROUP)
        for (ptrdiff_t first = begin; first < end; first += SET * PANEL)
            group_with_set(&me, row, first, end - first < SET * PANEL ? end : first + SET * PANEL);
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
