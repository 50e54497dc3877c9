/* Attention of single rows over paged keys and values: each row has its own list of slots.
 *
 * Work is split over rows and key heads. For one of these the scores of all keys lie in `scratch`, then their softmax, in
 * float32; the query heads that share a key head go by fours, so that a key is read once for four of them.
 */
#ifdef __AVX512F__
#include "threads.h"
#include "vectors.h"

#define NUM_Q 4 /* query heads at once */

typedef struct {
    const void *query;            /* [num_rows, num_heads, dim], rows query_stride apart */
    const void *keys, *values;    /* [slots, num_kv_heads, dim], [slots, num_kv_heads, value_dim] */
    void *out;                    /* [num_rows, num_heads, value_dim] */
    const int64_t *slots;         /* of the first row's keys, then of the second's and so on */
    const int64_t *ends;          /* [num_rows], where each row's keys end in slots */
    const float *sinks;           /* [num_heads], or NULL */
    float *scratch;               /* [num_rows * num_kv_heads, NUM_Q, max_keys] */
    ptrdiff_t num_rows, num_heads, num_kv_heads, dim, value_dim, query_stride, max_keys;
    float scaling, softcap; /* softcap 0 for none */
    int num_threads;
} attention_args;

INLINE __m512 tanh_16(__m512 v) { /* 1 - 2 / (e^2v + 1) */
    __m512 one = _mm512_set1_ps(1.0f), two = _mm512_set1_ps(2.0f);
    return _mm512_sub_ps(one, _mm512_div_ps(two, _mm512_add_ps(exp_16(_mm512_mul_ps(v, two)), one)));
}

/* Softmax of scores [num_keys], not divided by its sum, which is returned. `sink` takes part if it is not NULL. */
static float soften(float *scores, ptrdiff_t num_keys, float scaling, float softcap, const float *sink) {
    __m512 most = _mm512_set1_ps(sink ? *sink : -__builtin_inff());
    for (ptrdiff_t i = 0; i < num_keys; i += LANES) {
        __mmask16 mask = first_lanes(num_keys - i);
        __m512 v = _mm512_mul_ps(get_f32(scores + i, mask), _mm512_set1_ps(scaling));
        if (softcap > 0)
            v = _mm512_mul_ps(tanh_16(_mm512_div_ps(v, _mm512_set1_ps(softcap))), _mm512_set1_ps(softcap));
        put_f32(scores + i, mask, v);
        most = _mm512_mask_max_ps(most, mask, most, v);
    }
    __m512 max = _mm512_set1_ps(_mm512_reduce_max_ps(most)), sums = _mm512_setzero_ps();
    for (ptrdiff_t i = 0; i < num_keys; i += LANES) {
        __mmask16 mask = first_lanes(num_keys - i);
        __m512 v = _mm512_maskz_mov_ps(mask, exp_16(_mm512_sub_ps(get_f32(scores + i, mask), max)));
        put_f32(scores + i, mask, v);
        sums = _mm512_add_ps(sums, v);
    }
    float sum = _mm512_reduce_add_ps(sums);
    return sink ? sum + _mm512_cvtss_f32(exp_16(_mm512_sub_ps(_mm512_set1_ps(*sink), max))) : sum;
}

#define DEFINE_ATTENTION(NAME, T)                                                                                      \
    /* scores[q][key] of num_q query heads, `dim` apart, with one key head */                                          \
    static void scores_##NAME(const attention_args *a, const T *query, const T *keys, const int64_t *slots,            \
                              ptrdiff_t num_keys, int num_q, float *scores) {                                          \
        const T *q[NUM_Q];                                                                                             \
        for (int i = 0; i < NUM_Q; i++) q[i] = query + (i < num_q ? i : 0) * a->dim;                                   \
        ptrdiff_t stride = a->num_kv_heads * a->dim;                                                                   \
        for (ptrdiff_t key = 0; key < num_keys; key++) {                                                               \
            const T *k = keys + slots[key] * stride;                                                                   \
            __m512 sums[NUM_Q] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()}; \
            for (ptrdiff_t i = 0; i < a->dim; i += LANES) {                                                            \
                __mmask16 mask = first_lanes(a->dim - i);                                                              \
                __m512 part = get_##NAME(k + i, mask);                                                                 \
                for (int j = 0; j < NUM_Q; j++) sums[j] = _mm512_fmadd_ps(get_##NAME(q[j] + i, mask), part, sums[j]);  \
            }                                                                                                          \
            float four[NUM_Q];                                                                                         \
            _mm_storeu_ps(four, add_lanes(sums[0], sums[1], sums[2], sums[3]));                                        \
            for (int j = 0; j < num_q; j++) scores[j * a->max_keys + key] = four[j];                                   \
        }                                                                                                              \
    }                                                                                                                  \
    /* out[q] = the sum of values weighted by scores[q], divided by sums[q]; 16 numbers of the values at a time */     \
    static void mix_##NAME(const attention_args *a, const T *values, const int64_t *slots, ptrdiff_t num_keys,         \
                           int num_q, const float *scores, const float *sums, T *out) {                                \
        ptrdiff_t stride = a->num_kv_heads * a->value_dim;                                                             \
        for (ptrdiff_t i = 0; i < a->value_dim; i += 2 * LANES) {                                                      \
            __mmask16 low = first_lanes(a->value_dim - i);                                                             \
            __mmask16 high = a->value_dim - i > LANES ? first_lanes(a->value_dim - i - LANES) : 0;                     \
            __m512 mixed[NUM_Q][2];                                                                                    \
            for (int j = 0; j < NUM_Q; j++) mixed[j][0] = mixed[j][1] = _mm512_setzero_ps();                           \
            for (ptrdiff_t key = 0; key < num_keys; key++) {                                                           \
                const T *v = values + slots[key] * stride + i;                                                         \
                __m512 first = get_##NAME(v, low), second = get_##NAME(v + LANES, high);                               \
                for (int j = 0; j < NUM_Q; j++) {                                                                      \
                    __m512 weight = _mm512_set1_ps(scores[(j < num_q ? j : 0) * a->max_keys + key]);                   \
                    mixed[j][0] = _mm512_fmadd_ps(weight, first, mixed[j][0]);                                         \
                    mixed[j][1] = _mm512_fmadd_ps(weight, second, mixed[j][1]);                                        \
                }                                                                                                      \
            }                                                                                                          \
            for (int j = 0; j < num_q; j++) {                                                                          \
                __m512 scale = _mm512_set1_ps(1.0f / sums[j]);                                                         \
                put_##NAME(out + j * a->value_dim + i, low, _mm512_mul_ps(mixed[j][0], scale));                        \
                put_##NAME(out + j * a->value_dim + i + LANES, high, _mm512_mul_ps(mixed[j][1], scale));               \
            }                                                                                                          \
        }                                                                                                              \
    }                                                                                                                  \
    static void share_##NAME(void *data) {                                                                             \
        const attention_args *a = data;                                                                                \
        ptrdiff_t group = a->num_heads / a->num_kv_heads, unit, end;                                                   \
        share_of(a->num_rows * a->num_kv_heads, 1, a->num_threads, &unit, &end);                                       \
        for (; unit < end; unit++) {                                                                                   \
            ptrdiff_t row = unit / a->num_kv_heads, kv_head = unit % a->num_kv_heads;                                  \
            float *scores = a->scratch + unit * NUM_Q * a->max_keys;                                                   \
            ptrdiff_t first = row ? a->ends[row - 1] : 0, num_keys = a->ends[row] - first;                             \
            const int64_t *slots = a->slots + first;                                                                   \
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
#ifdef __AVX512BW__
DEFINE_ATTENTION(bf16, uint16_t)
#endif
#endif
