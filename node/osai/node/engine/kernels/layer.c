/* Whole decoder layers over packed rows, one after the other: what Python would call one after the other.
 *
 *     hidden += o(attend(rope(qkv(norm(hidden)))))
 *     hidden += down(silu(gate) * up)  of norm(hidden)
 *
 * Between two products a step's own data are small; but a product sweeps the cache, and every call from Python begins
 * by fetching the interpreter back into it.
 */
#include "kernels.h"
#ifdef OSAI_VECTORS

#define DEFINE_LAYER(NAME, T)                                                                                          \
    static void linear_of_##NAME(const linear_weights *l, const T *x, T *y, const layer_args *a) {                     \
        osai_linear_##NAME(x, l->panels, l->bias, y, a->num_rows, l->out_features, l->in_features, a->tiles,           \
                           a->num_threads);                                                                            \
    }                                                                                                                  \
    static void norm_of_##NAME(const norm_weights *n, const T *x, T *y, ptrdiff_t num_rows, ptrdiff_t dim) {           \
        osai_norm_##NAME(x, n->weight, y, num_rows, dim, dim, n->eps, n->offset, n->rounds_first);                     \
    }                                                                                                                  \
    static void add_##NAME(T *sum, const T *x, ptrdiff_t count) {                                                      \
        for (ptrdiff_t i = 0; i < count; i += LANES) {                                                                 \
            lanes mask = first_lanes(count - i);                                                                   \
            put_##NAME(sum + i, mask, add(get_##NAME(sum + i, mask), get_##NAME(x + i, mask)));              \
        }                                                                                                              \
    }                                                                                                                  \
    /* keys and values of each row into the pages */                                                                   \
    static void store_##NAME(const layer_args *a, const T *qkv, ptrdiff_t stride) {                                    \
        const attention_args *t = &a->attention;                                                                       \
        ptrdiff_t width = t->num_kv_heads * t->dim;                                                                    \
        for (ptrdiff_t row = 0; row < a->num_rows; row++, qkv += stride) {                                             \
            const T *key = qkv + t->num_heads * t->dim;                                                                \
            memcpy((T *)t->keys + a->slots[row] * width, key, (size_t)width * sizeof(T));                              \
            memcpy((T *)t->values + a->slots[row] * width, key + width, (size_t)width * sizeof(T));                    \
        }                                                                                                              \
    }                                                                                                                  \
    static void layer_##NAME(const layer_weights *w, const layer_args *args) {                                         \
        layer_args a = *args;                                                                                          \
        attention_args *t = &a.attention;                                                                              \
        ptrdiff_t heads = t->num_heads + t->num_kv_heads, stride = w->qkv.out_features, n = a.num_rows;                \
        ptrdiff_t hidden_size = w->qkv.in_features;                                                                    \
        T *hidden = a.hidden, *normed = a.normed, *wide = a.wide, *mixed = a.mixed;                                    \
        norm_of_##NAME(&w->norm_before, hidden, normed, n, hidden_size);                                               \
        linear_of_##NAME(&w->qkv, normed, wide, &a);                                                                   \
        for (ptrdiff_t row = 0; w->query_norm.weight && row < n; row++) {                                              \
            T *q = wide + row * stride, *k = q + t->num_heads * t->dim;                                                \
            norm_of_##NAME(&w->query_norm, q, q, t->num_heads, t->dim);                                                \
            norm_of_##NAME(&w->key_norm, k, k, t->num_kv_heads, t->dim);                                               \
        }                                                                                                              \
        osai_rope_##NAME(wide, a.cos, a.sin, n, heads, t->dim, a.half, stride);                                        \
        store_##NAME(&a, wide, stride);                                                                                \
        t->query = wide, t->query_stride = stride, t->out = mixed, t->num_rows = n, t->num_threads = a.num_threads;    \
        osai_attend_##NAME(t);                                                                                         \
        linear_of_##NAME(&w->o, mixed, normed, &a);                                                                    \
        add_##NAME(hidden, normed, n * hidden_size);                                                                   \
        norm_of_##NAME(&w->norm_between, hidden, normed, n, hidden_size);                                              \
        linear_of_##NAME(&w->gate_up, normed, wide, &a);                                                               \
        osai_swiglu_##NAME(wide, mixed, n, w->down.in_features);                                                       \
        linear_of_##NAME(&w->down, mixed, normed, &a);                                                                 \
        add_##NAME(hidden, normed, n * hidden_size);                                                                   \
    }                                                                                                                  \
    void osai_layers_##NAME(const layer_weights *const *weights, const layer_args *args, ptrdiff_t num_layers) {       \
        for (ptrdiff_t i = 0; i < num_layers; i++) layer_##NAME(weights[i], &args[i]);                                 \
    }

DEFINE_LAYER(f32, float)
DEFINE_LAYER(bf16, uint16_t)
#endif
