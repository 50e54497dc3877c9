/* Row by row: norms, rotary positions, gated activations. What a layer does between its linear layers, each in one pass. */
#include "kernels.h"
#ifdef OSAI_VECTORS

/* Root mean square norm of x [num_rows, dim], rows `stride` apart, into y [num_rows, dim].
 * The weight takes part as offset + w, before the result is rounded, or after if `rounds_first`.
 */
#define DEFINE_NORM(NAME, T)                                                                                           \
    void osai_norm_##NAME(const T *x, const T *w, T *y, ptrdiff_t num_rows, ptrdiff_t dim, ptrdiff_t stride,           \
                          float eps, float offset, int rounds_first) {                                                 \
        for (ptrdiff_t row = 0; row < num_rows; row++, x += stride, y += dim) {                                        \
            floats squares = zeros();                                                                      \
            for (ptrdiff_t i = 0; i < dim; i += LANES) {                                                               \
                floats v = get_##NAME(x + i, first_lanes(dim - i));                                                    \
                squares = mul_add(v, v, squares);                                                              \
            }                                                                                                          \
            floats mean = all(sum_of(squares) / (float)dim + eps);                           \
            floats scale = quotient(all(1.0f), root(mean));                                  \
            for (ptrdiff_t i = 0; i < dim; i += LANES) {                                                               \
                lanes mask = first_lanes(dim - i);                                                                 \
                floats v = mul(get_##NAME(x + i, mask), scale);                                              \
                if (rounds_first) v = round_##NAME(v);                                                                 \
                v = mul(v, add(get_##NAME(w + i, mask), all(offset)));                  \
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
                    lanes mask = first_lanes(half - i);                                                            \
                    T *low = x + head * dim + i, *high = low + half;                                                   \
                    floats c = get_##NAME(cos + i, mask), s = get_##NAME(sin + i, mask);                               \
                    floats a = get_##NAME(low, mask), b = get_##NAME(high, mask);                                      \
                    floats ac = round_##NAME(mul(a, c)), bc = round_##NAME(mul(b, c));             \
                    put_##NAME(low, mask, sub(ac, round_##NAME(mul(b, s))));                       \
                    put_##NAME(high, mask, add(bc, round_##NAME(mul(a, s))));                      \
                }                                                                                                      \
    }

/* silu(gate) * up of x [num_rows, 2 * dim], gates first, into y [num_rows, dim]. */
#define DEFINE_SWIGLU(NAME, T)                                                                                         \
    void osai_swiglu_##NAME(const T *x, T *y, ptrdiff_t num_rows, ptrdiff_t dim) {                                     \
        const floats one = all(1.0f);                                                                       \
        for (ptrdiff_t row = 0; row < num_rows; row++, x += 2 * dim, y += dim)                                         \
            for (ptrdiff_t i = 0; i < dim; i += LANES) {                                                               \
                lanes mask = first_lanes(dim - i);                                                                 \
                floats gate = get_##NAME(x + i, mask), up = get_##NAME(x + dim + i, mask);                             \
                floats below = add(one, exp_of(sub(zeros(), gate)));                   \
                put_##NAME(y + i, mask, mul(round_##NAME(quotient(gate, below)), up));                  \
            }                                                                                                          \
    }

#define DEFINE_ALL(NAME, T) DEFINE_NORM(NAME, T) DEFINE_ROPE(NAME, T) DEFINE_SWIGLU(NAME, T)
DEFINE_ALL(f32, float)
DEFINE_ALL(bf16, uint16_t)
#endif
