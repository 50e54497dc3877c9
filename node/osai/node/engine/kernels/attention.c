/* Attention of rows over paged keys and values, each over slots of its own.
 *
 * Work is split over rows and key heads. For one of these the scores of all keys lie in the thread's part of `scratch`,
 * then their softmax, in float32; the query heads that share a key head go by fours, so that a key is read once for
 * four of them.
 */
#include "kernels.h"
#ifdef OSAI_VECTORS
#include "threads.h"

#define UNROLL _Pragma("GCC unroll 4") /* else sums are kept in memory */
#define NUM_Q 4 /* query heads at once */
#define AT_ONCE (NUM_FLOATS / 8) /* vectors of values at once: of 32, 4 * 4 sums, 4 of values and a weight */
#define AHEAD 16 /* keys: pages lie anywhere, so that the processor can't guess the next one */

/* Ask for what lies at p. */
INLINE void fetch(const void *p, ptrdiff_t num_bytes) {
    for (ptrdiff_t i = 0; i < num_bytes; i += 64) _mm_prefetch((const char *)p + i, _MM_HINT_T0);
}

/* How much of queries and keys is 64 bytes, and which of it is left. */
#define STEP_f32 LANES
#define STEP_bf16 (2 * LANES)
INLINE lanes tail_f32(ptrdiff_t count) { return first_lanes(count); }
INLINE pairs tail_bf16(ptrdiff_t count) { return first_pairs(count); }

/* Softmax of scores [num_keys], not divided by its sum, which is returned. `sink` takes part if it is not NULL. */
static float soften(float *scores, ptrdiff_t num_keys, float scaling, float softcap, const float *sink) {
    floats greatest = all(sink ? *sink : -__builtin_inff());
    for (ptrdiff_t i = 0; i < num_keys; i += LANES) {
        lanes mask = first_lanes(num_keys - i);
        floats v = mul(get_f32(scores + i, mask), all(scaling));
        if (softcap > 0)
            v = mul(tanh_of(quotient(v, all(softcap))), all(softcap));
        put_f32(scores + i, mask, v);
        greatest = most(greatest, only(mask, v, greatest));
    }
    floats max = all(most_of(greatest)), sums = zeros();
    for (ptrdiff_t i = 0; i < num_keys; i += LANES) {
        lanes mask = first_lanes(num_keys - i);
        floats v = only(mask, exp_of(sub(get_f32(scores + i, mask), max)), zeros());
        put_f32(scores + i, mask, v);
        sums = add(sums, v);
    }
    float sum = sum_of(sums);
    return sink ? sum + first_of(exp_of(sub(all(*sink), max))) : sum;
}

#define DEFINE_ATTENTION(NAME, T)                                                                                      \
    /* scores[q][key] of num_q query heads, dim apart, with one key head */                                            \
    INLINE void scores_of_##NAME(const T *query, const T *keys, const int64_t *slots, ptrdiff_t num_keys, int num_q,   \
                                 float *restrict scores, ptrdiff_t max_keys, ptrdiff_t stride, ptrdiff_t dim) {        \
        const T *q[NUM_Q];                                                                                             \
        for (int i = 0; i < NUM_Q; i++) q[i] = query + (i < num_q ? i : 0) * dim;                                      \
        for (ptrdiff_t key = 0; key < num_keys; key++) {                                                               \
            const T *k = keys + slots[key] * stride;                                                                   \
            fetch(keys + slots[key + AHEAD < num_keys ? key + AHEAD : key] * stride, dim * (ptrdiff_t)sizeof(T));      \
            floats sums[NUM_Q] = {zeros(), zeros(), zeros(), zeros()}; \
            for (ptrdiff_t i = 0; i < dim; i += STEP_##NAME) {                                                         \
                __typeof__(tail_##NAME(0)) mask = tail_##NAME(dim - i);                                                \
                words part = words_##NAME(k + i, mask);                                                               \
                UNROLL                                                                                                 \
                for (int j = 0; j < NUM_Q; j++) sums[j] = dot_##NAME(sums[j], words_##NAME(q[j] + i, mask), part);      \
            }                                                                                                          \
            float four[NUM_Q];                                                                                         \
            _mm_storeu_ps(four, add_lanes(sums[0], sums[1], sums[2], sums[3]));                                        \
            UNROLL                                                                                                     \
            for (int j = 0; j < NUM_Q; j++) scores[j * max_keys + key] = four[j];                                      \
        }                                                                                                              \
    }                                                                                                                  \
    static void scores_##NAME(const attention_args *a, const T *query, const T *keys, const int64_t *slots,            \
                              ptrdiff_t num_keys, int num_q, float *scores) {                                          \
        ptrdiff_t stride = a->num_kv_heads * a->dim;                                                                   \
        switch (a->dim) { /* known sizes become straight code */                                                       \
        case 64: scores_of_##NAME(query, keys, slots, num_keys, num_q, scores, a->max_keys, stride, 64); break;        \
        case 128: scores_of_##NAME(query, keys, slots, num_keys, num_q, scores, a->max_keys, stride, 128); break;      \
        default: scores_of_##NAME(query, keys, slots, num_keys, num_q, scores, a->max_keys, stride, a->dim);           \
        }                                                                                                              \
    }                                                                                                                  \
    /* out[q] = the sum of values weighted by scores[q], divided by sums[q]: AT_ONCE * 16 numbers from i on */         \
    INLINE void mix_words_##NAME(const attention_args *a, const T *values, const int64_t *slots, ptrdiff_t num_keys,    \
                                int num_q, const float *restrict scores, const float *sums, T *out, ptrdiff_t i,       \
                                ptrdiff_t count) {                                                                     \
        ptrdiff_t stride = a->num_kv_heads * a->value_dim;                                                             \
        floats mixed[NUM_Q][AT_ONCE];                                                                                  \
        UNROLL                                                                                                         \
        for (int j = 0; j < NUM_Q; j++)                                                                                \
            UNROLL                                                                                                     \
            for (int c = 0; c < AT_ONCE; c++) mixed[j][c] = zeros();                                       \
        for (ptrdiff_t key = 0; key < num_keys; key++) {                                                               \
            const T *v = values + slots[key] * stride + i;                                                             \
            fetch(values + slots[key + AHEAD < num_keys ? key + AHEAD : key] * stride + i, count * (ptrdiff_t)sizeof(T));\
            floats part[AT_ONCE];                                                                                      \
            UNROLL                                                                                                     \
            for (int c = 0; c < AT_ONCE; c++) part[c] = get_##NAME(v + LANES * c, first_lanes(count - LANES * c));     \
            UNROLL                                                                                                     \
            for (int j = 0; j < NUM_Q; j++) {                                                                          \
                floats weight = all(scores[(j < num_q ? j : 0) * a->max_keys + key]);                       \
                UNROLL                                                                                                 \
                for (int c = 0; c < AT_ONCE; c++) mixed[j][c] = mul_add(weight, part[c], mixed[j][c]);         \
            }                                                                                                          \
        }                                                                                                              \
        UNROLL                                                                                                         \
        for (int j = 0; j < NUM_Q; j++)                                                                                \
            UNROLL                                                                                                     \
            for (int c = 0; j < num_q && c < AT_ONCE; c++)                                                             \
                put_##NAME(out + j * a->value_dim + i + LANES * c, first_lanes(count - LANES * c),                     \
                           mul(mixed[j][c], all(1.0f / sums[j])));                                \
    }                                                                                                                  \
    static void mix_##NAME(const attention_args *a, const T *values, const int64_t *slots, ptrdiff_t num_keys,         \
                           int num_q, const float *scores, const float *sums, T *out) {                                \
        ptrdiff_t i = 0, whole = AT_ONCE * LANES;                                                                      \
        for (; i + whole <= a->value_dim; i += whole)                                                                  \
            mix_words_##NAME(a, values, slots, num_keys, num_q, scores, sums, out, i, whole);                           \
        if (i < a->value_dim)                                                                                          \
            mix_words_##NAME(a, values, slots, num_keys, num_q, scores, sums, out, i, a->value_dim - i);                \
    }                                                                                                                  \
    static void share_##NAME(void *data) {                                                                             \
        const attention_args *a = data;                                                                                \
        ptrdiff_t group = a->num_heads / a->num_kv_heads, unit, end;                                                   \
        share_of(a->num_rows * a->num_kv_heads, 1, a->num_threads, &unit, &end);                                       \
        float *scores = a->scratch + this_thread(a->num_threads) * NUM_Q * a->max_keys;                                \
        for (; unit < end; unit++) {                                                                                   \
            ptrdiff_t row = unit / a->num_kv_heads, kv_head = unit % a->num_kv_heads;                                  \
            ptrdiff_t num_keys = a->ends[row] - a->begins[row];                                                        \
            const int64_t *slots = a->slots + a->begins[row];                                                          \
            for (ptrdiff_t from = 0; from < group; from += NUM_Q) {                                                    \
                ptrdiff_t head = kv_head * group + from;                                                               \
                int num_q = group - from < NUM_Q ? (int)(group - from) : NUM_Q;                                        \
                const T *query = (const T *)a->query + row * a->query_stride + head * a->dim;                          \
                float sums[NUM_Q];                                                                                     \
                scores_##NAME(a, query, (const T *)a->keys + kv_head * a->dim, slots, num_keys, num_q, scores);   \
                for (int j = 0; j < num_q; j++)                                                                        \
                    sums[j] = soften(scores + j * a->max_keys, num_keys, a->scaling, a->softcap,                         \
                                     a->sinks ? a->sinks + head + j : NULL);                                           \
                T *out = (T *)a->out + (row * a->num_heads + head) * a->value_dim;                                     \
                mix_##NAME(a, (const T *)a->values + kv_head * a->value_dim, slots, num_keys, num_q, scores,           \
                           sums, out);                                                                                 \
            }                                                                                                          \
        }                                                                                                              \
    }                                                                                                                  \
    void osai_attend_##NAME(const attention_args *args) {                                                              \
        attention_args copy = *args;                                                                                   \
        in_threads(share_##NAME, &copy, args->num_threads);                                                            \
    }

DEFINE_ATTENTION(f32, float)
DEFINE_ATTENTION(bf16, uint16_t)
#endif
