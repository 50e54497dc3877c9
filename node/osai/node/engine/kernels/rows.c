/* Row by row: norms, rotary positions, gated activations. What a layer does between its linear layers, each in one pass. */
#ifdef __AVX512F__
#include "kernels.h"

/* Root mean square norm of x [num_rows, dim], rows `stride` apart, into y [num_rows, dim].
 * The weight takes part as offset + w, before the result is rounded, or after if `rounds_first`.
 */
#define DEFINE_NORM(NAME, T)                                                                                           \
    void osai_norm_##NAME(const T *x, const T *w, T *y, ptrdiff_t num_rows, ptrdiff_t dim, ptrdiff_t stride,           \
                          float eps, float offset, int rounds_first) {                                                 \
        for (ptrdiff_t row = 0; row < num_rows; row++, x += stride, y += dim) {                                        \
            __m512 squares = _mm512_setzero_ps();                                                                      \
            for (ptrdiff_t i = 0; i < dim; i += LANES) {                                                               \
                __m512 v = get_##NAME(x + i, first_lanes(dim - i));                                                    \
                squares = _mm512_fmadd_ps(v, v, squares);                                                              \
            }                                                                                                          \
            __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(squares) / (float)dim + eps);                           \
            __m512 scale = _mm512_div_ps(_mm512_set1_ps(1.0f), _mm512_sqrt_ps(mean));                                  \
            for (ptrdiff_t i = 0; i < dim; i += LANES) {                                                               \
                __mmask16 mask = first_lanes(dim - i);                                                                 \
                __m512 v = _mm512_mul_ps(get_##NAME(x + i, mask), scale);                                              \
                if (rounds_first) v = round_##NAME(v);                                                                 \
                v = _mm512_mul_ps(v, _mm512_add_ps(get_##NAME(w + i, mask), _mm512_set1_ps(offset)));                  \
                put_##NAME(y + i, mask, v);                                                                            \
            }                                                                                                          \
        }                                                                                                              \
    }

/* Rotary positions, in place: the first num_heads of each row of x, `stride` apart; of each head [dim] the first
 * 2 * half numbers turn, i with i + half. cos and sin: [num_rows, 2 * half], both halves alike.
 */
#define DEFINE_ROPE(NAME, T)                                                                                           \
    void osai_rope_##NAME(T *x, const T *cos, const T *sin, ptrdiff_t num_rows, ptrdiff_t num_heads, ptrdiff_t dim,    \
                          ptrdiff_t half, ptrdiff_t stride) {                                                          \
        for (ptrdiff_t row = 0; row < num_rows; row++, x += stride, cos += 2 * half, sin += 2 * half)                  \
            for (ptrdiff_t head = 0; head < num_heads; head++)                                                         \
                for (ptrdiff_t i = 0; i < half; i += LANES) {                                                          \
                    __mmask16 mask = first_lanes(half - i);                                                            \
                    T *low = x + head * dim + i, *high = low + half;                                                   \
                    __m512 c = get_##NAME(cos + i, mask), s = get_##NAME(sin + i, mask);                               \
                    __m512 a = get_##NAME(low, mask), b = get_##NAME(high, mask);                                      \
                    __m512 ac = round_##NAME(_mm512_mul_ps(a, c)), bc = round_##NAME(_mm512_mul_ps(b, c));             \
                    put_##NAME(low, mask, _mm512_sub_ps(ac, round_##NAME(_mm512_mul_ps(b, s))));                       \
                    put_##NAME(high, mask, _mm512_add_ps(bc, round_##NAME(_mm512_mul_ps(a, s))));                      \
                }                                                                                                      \
    }

/* silu(gate) * up of x [num_rows, 2 * dim], gates first, into y [num_rows, dim]. */
#define DEFINE_SWIGLU(NAME, T)                                                                                         \
    void osai_swiglu_##NAME(const T *x, T *y, ptrdiff_t num_rows, ptrdiff_t dim) {                                     \
        const __m512 one = _mm512_set1_ps(1.0f);                                                                       \
        for (ptrdiff_t row = 0; row < num_rows; row++, x += 2 * dim, y += dim)                                         \
            for (ptrdiff_t i = 0; i < dim; i += LANES) {                                                               \
                __mmask16 mask = first_lanes(dim - i);                                                                 \
                __m512 gate = get_##NAME(x + i, mask), up = get_##NAME(x + dim + i, mask);                             \
                __m512 below = _mm512_add_ps(one, exp_16(_mm512_sub_ps(_mm512_setzero_ps(), gate)));                   \
                put_##NAME(y + i, mask, _mm512_mul_ps(round_##NAME(_mm512_div_ps(gate, below)), up));                  \
            }                                                                                                          \
    }

#define DEFINE_ALL(NAME, T) DEFINE_NORM(NAME, T) DEFINE_ROPE(NAME, T) DEFINE_SWIGLU(NAME, T)
DEFINE_ALL(f32, float)
#ifdef __AVX512BF16__
DEFINE_ALL(bf16, uint16_t)
#endif
#endif
