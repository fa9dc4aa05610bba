// Adds to omega of several parameters the gradients times the steps that were made against them: omega <- omega + (before - p) g.
//
//   0  address of the layout: FIELDS numbers per parameter, which are the addresses of p, of its values before the step, of g and omega,
//      and the number of elements
//   1  number of parameters
//   2  number of threads
#include "kernels.h"

enum { FIELDS = 5, TILE = 1024 };

typedef struct {
    const scalar *p, *before, *g;
    scalar *path;
    int64_t elements;
} work;

static void add_tiles(const void *context, int64_t first, int64_t last) {
    const work *w = context;
    const scalar *restrict p = w->p, *restrict before = w->before, *restrict g = w->g;
    scalar *restrict path = w->path;
    const int64_t end = smaller(last * TILE, w->elements);
#pragma omp simd
    for (int64_t i = first * TILE; i < end; i++) path[i] = multiply_add(before[i] - p[i], g[i], path[i]);
}

DEFINE(path_integral) {
    const int64_t *layout = ADDRESS(const int64_t, a[0].i), parameters = a[1].i, threads = a[2].i;
    work w;

    for (const int64_t *field = layout; field < layout + FIELDS * parameters; field += FIELDS) {
        w.p = ADDRESS(const scalar, field[0]), w.before = ADDRESS(const scalar, field[1]);
        w.g = ADDRESS(const scalar, field[2]), w.path = ADDRESS(scalar, field[3]);
        w.elements = field[4];
        in_parallel(add_tiles, &w, (w.elements + TILE - 1) / TILE, w.elements, threads);
    }
}
