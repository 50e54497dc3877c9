/* Work in the threads that torch's own operators use: two pools of threads would take each other's cores. */
#ifndef OSAI_THREADS_H
#define OSAI_THREADS_H

#include <stddef.h>

extern void (*osai_parallel)(void (*body)(void *), void *data, unsigned num_threads, unsigned flags); /* GOMP_parallel */
extern int (*osai_thread_num)(void);                                                                  /* omp_get_thread_num */

static inline void in_threads(void (*body)(void *), void *data, int num_threads) {
    if (num_threads > 1 && osai_parallel)
        osai_parallel(body, data, (unsigned)num_threads, 0);
    else
        body(data);
}

/* The calling thread's number within `in_threads`. */
static inline ptrdiff_t this_thread(int num_threads) {
    return num_threads > 1 && osai_parallel ? osai_thread_num() : 0;
}

/* The calling thread's share [first, end) of num_items, in whole units but for the last. */
static inline void share_of(ptrdiff_t num_items, ptrdiff_t unit, int num_threads, ptrdiff_t *first, ptrdiff_t *end) {
    ptrdiff_t threads = osai_parallel ? num_threads : 1, me = this_thread(num_threads);
    ptrdiff_t units = (num_items + unit - 1) / unit;
    *first = units * me / threads * unit;
    *end = units * (me + 1) / threads * unit;
    if (*first > num_items) *first = num_items;
    if (*end > num_items) *end = num_items;
}

#endif
