/* What the kernels offer, to Python (library.py has the same structures) and to each other. */
#ifndef OSAI_KERNELS_H
#define OSAI_KERNELS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "vectors.h"

typedef struct {
    const void *query;           /* [num_rows, num_heads, dim], rows query_stride apart */
    const void *keys, *values;   /* [slots, num_kv_heads, dim], [slots, num_kv_heads, value_dim] */
    void *out;                   /* [num_rows, num_heads, value_dim] */
    const int64_t *slots;        /* of keys */
    const int64_t *begins, *ends; /* [num_rows], which of slots each row sees */
    const float *sinks;          /* [num_heads], or NULL */
    float *scratch;              /* [num_threads, 4, max_keys] */
    ptrdiff_t num_rows, num_heads, num_kv_heads, dim, value_dim, query_stride, max_keys;
    float scaling, softcap; /* softcap 0 for none */
    int num_threads;
} attention_args;

typedef struct {
    const void *panels, *bias; /* bias NULL for none */
    ptrdiff_t out_features, in_features;
} linear_weights;

typedef struct {
    const void *weight; /* NULL for no norm */
    float eps, offset;
    int rounds_first;
} norm_weights;

typedef struct {
    norm_weights norm_before, query_norm, key_norm, norm_between;
    linear_weights qkv, o, gate_up, down;
} layer_weights;

typedef struct {
    attention_args attention; /* query, query_stride, out, num_rows and num_threads are the layer's to fill in */
    void *hidden;             /* [num_rows, hidden_size], in and out */
    void *normed;             /* room for [num_rows, hidden_size] */
    void *wide;               /* for [num_rows, the most of qkv's and gate_up's outputs] */
    void *mixed;              /* for [num_rows, the most of o's and down's inputs] */
    uint32_t *tiles;          /* for [num_rows, the most inputs of any product] numbers */
    const void *cos, *sin;    /* [num_rows, 2 * half] */
    const int64_t *slots;     /* [num_rows], where keys and values go */
    ptrdiff_t num_rows, half;
    int num_threads;
} layer_args;

#define DECLARE_ALL(NAME, T)                                                                                           \
    void osai_linear_##NAME(const T *x, const T *w, const T *bias, T *y, ptrdiff_t m, ptrdiff_t n, ptrdiff_t k,        \
                            uint32_t *scratch, int num_threads);                                                       \
    void osai_norm_##NAME(const T *x, const T *w, T *y, ptrdiff_t num_rows, ptrdiff_t dim, ptrdiff_t stride,           \
                          float eps, float offset, int rounds_first);                                                  \
    void osai_rope_##NAME(T *x, const T *cos, const T *sin, ptrdiff_t num_rows, ptrdiff_t num_heads, ptrdiff_t dim,    \
                          ptrdiff_t half, ptrdiff_t stride);                                                           \
    void osai_swiglu_##NAME(const T *x, T *y, ptrdiff_t num_rows, ptrdiff_t dim);                                      \
    void osai_attend_##NAME(const attention_args *args);                                                               \
    void osai_layers_##NAME(const layer_weights *const *weights, const layer_args *args, ptrdiff_t num_layers);
DECLARE_ALL(f32, float)
DECLARE_ALL(bf16, uint16_t)

#endif
