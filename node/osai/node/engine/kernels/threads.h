/* Work in the threads that torch's own operators use: two pools of threads would take each other's cores. */
#ifndef OSAI_THREADS_H
#define OSAI_THREADS_H

extern void (*osai_parallel)(void (*body)(void *), void *data, unsigned num_threads, unsigned flags); /* GOMP_parallel */
extern int (*osai_thread_num)(void);                                                                  /* omp_get_thread_num */

static inline void in_threads(void (*body)(void *), void *data, int num_threads) {
    if (num_threads > 1 && osai_parallel)
        osai_parallel(body, data, (unsigned)num_threads, 0);
    else
        body(data);
}

/* The calling thread's share [first, end) of num_items, in whole units but for the last. */
static inline void share_of(long num_items, long unit, int num_threads, long *first, long *end) {
    int threads = osai_parallel ? num_threads : 1, me = threads > 1 ? osai_thread_num() : 0;
    long units = (num_items + unit - 1) / unit;
    *first = units * me / threads * unit;
    *end = units * (me + 1) / threads * unit;
    if (*first > num_items) *first = num_items;
    if (*end > num_items) *end = num_items;
}

#endif
