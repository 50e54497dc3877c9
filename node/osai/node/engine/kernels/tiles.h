/* AMX tiles as linear_amx.c uses them: 0 to 3 are sums, 4 and 5 rows of x, 6 and 7 weights. */
#ifndef OSAI_TILES_H
#define OSAI_TILES_H

#include "vectors.h"

#define PANEL 64    /* outputs: 4 tiles */
#define STEP 32     /* inputs: 16 pairs, the rows of a tile of weights */
#define PAIR_BYTES 256 /* of a panel */
#define STEP_BYTES (STEP / 2 * PAIR_BYTES)
#define TILE_SUMS (16 * 16)

typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} __attribute__((packed, aligned(64))) tile_config;

/* gcc's tile instructions don't say that they read memory. */
INLINE void written(void) { __asm__ volatile("" ::: "memory"); }

/* For blocks of so many rows: with up to 16, all sums are of these. */
static void configure(ptrdiff_t num_rows) {
    tile_config config = {.palette = 1};
    uint8_t upper = (uint8_t)(num_rows < 16 ? num_rows : 16), lower = (uint8_t)(num_rows > 16 ? num_rows - 16 : upper);
    for (int i = 0; i < 8; i++) config.row_bytes[i] = 64, config.rows[i] = 16;
    config.rows[0] = config.rows[1] = config.rows[4] = upper;
    config.rows[2] = config.rows[3] = config.rows[5] = lower;
    written();
    _tile_loadconfig(&config);
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

/* The sums so far, of the first step on nothing. */
INLINE void begin_sums(int is_first, float (*sums)[TILE_SUMS]) {
    written();
    if (is_first) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        return;
    }
    _tile_loadd(0, sums[0], 64);
    _tile_loadd(1, sums[1], 64);
    _tile_loadd(2, sums[2], 64);
    _tile_loadd(3, sums[3], 64);
}

INLINE void end_sums(float (*sums)[TILE_SUMS]) {
    _tile_stored(0, sums[0], 64);
    _tile_stored(1, sums[1], 64);
    _tile_stored(2, sums[2], 64);
    _tile_stored(3, sums[3], 64);
    written();
}

#endif
