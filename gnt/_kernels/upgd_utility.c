// Updates the utilities of several parameters: u <- decay u - (1 - decay) g p, and finds the largest of each.
//
//   0  address of the layout: FIELDS numbers per parameter, which are the addresses of u, g and p, and the number of elements
//   1  number of parameters
//   2  decay
//   3  address of the results, a scalar per parameter
//   4  address of scratch memory: a scalar for each CHUNK elements of the largest parameter, rounded up
//   5  number of threads
#include "kernels.h"

enum { FIELDS = 4, CHUNK = 4096 };

typedef struct {
    scalar *u, *largest;
    const scalar *g, *p;
    int64_t elements;
    scalar decay;
} work;

static void update_chunks(const void *context, int64_t first, int64_t last) {
    const work *w = context;
    const scalar decay = w->decay;
    for (int64_t chunk = first; chunk < last; chunk++) {
        const int64_t begin = chunk * CHUNK, size = smaller(CHUNK, w->elements - begin);
        scalar *restrict u = w->u + begin;
        const scalar *restrict g = w->g + begin, *restrict p = w->p + begin;
        scalar largest = -INFINITY;
        int64_t undefined = 0;
#pragma omp simd reduction(max : largest) reduction(+ : undefined)
        for (int64_t i = 0; i < size; i++) {
            u[i] = multiply_add(decay - 1, g[i] * p[i], decay * u[i]);
            largest = u[i] > largest ? u[i] : largest;
            undefined += u[i] != u[i];
        }
        w->largest[chunk] = undefined ? NAN : largest;
    }
}

DEFINE(upgd_utility) {
    const int64_t *layout = ADDRESS(const int64_t, a[0].i), parameters = a[1].i, threads = a[5].i;
    scalar *results = ADDRESS(scalar, a[3].i);
    work w = {.largest = ADDRESS(scalar, a[4].i), .decay = (scalar)a[2].d};

    for (int64_t i = 0; i < parameters; i++) {
        const int64_t *field = layout + i * FIELDS, chunks = (field[3] + CHUNK - 1) / CHUNK;
        w.u = ADDRESS(scalar, field[0]), w.g = ADDRESS(const scalar, field[1]), w.p = ADDRESS(const scalar, field[2]);
        w.elements = field[3];
        in_parallel(update_chunks, &w, chunks, w.elements, threads);
        results[i] = w.largest[0];
        for (int64_t chunk = 1; chunk < chunks; chunk++)
            if (w.largest[chunk] > results[i] || w.largest[chunk] != w.largest[chunk]) results[i] = w.largest[chunk];
    }
}
