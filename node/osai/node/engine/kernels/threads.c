/* See threads.h. */
#include "threads.h"

void (*osai_parallel)(void (*body)(void *), void *data, unsigned num_threads, unsigned flags) = 0;
int (*osai_thread_num)(void) = 0;

/* The pool of GCC's OpenMP library that torch has loaded: its GOMP_parallel and omp_get_thread_num. */
void osai_use_threads(void *parallel, void *thread_num) {
    osai_parallel = (void (*)(void (*)(void *), void *, unsigned, unsigned))parallel;
    osai_thread_num = (int (*)(void))thread_num;
}
