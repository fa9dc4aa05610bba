// Shrinks several parameters and adds noise: p <- shrink p + noise n with standard normal n.
//
//   0  address of the layout: FIELDS numbers per parameter, which are the address of p, the number of elements, the key of its noise,
//      and the number of its stream
//   1  number of parameters
//   2  shrink
//   3  noise, the standard deviation
//   4  number of threads
#include "random_normal.h"

enum { FIELDS = 4 };

typedef struct {
    scalar *p;
    int64_t elements;
    uint64_t key;
    uint32_t stream;
    scalar shrink, noise;
} work;

static void perturb_tiles(const void *context, int64_t first, int64_t last) {
    const work *w = context;
    const scalar shrink = w->shrink, noise = w->noise;
    scalar normal[TILE];
    for (int64_t tile = first; tile < last; tile++) {
        const int64_t begin = tile * TILE, size = smaller(TILE, w->elements - begin);
        scalar *restrict p = w->p + begin;
        normal_tile(normal, w->key, w->stream, (uint64_t)tile);
#pragma omp simd
        for (int64_t i = 0; i < size; i++) p[i] = multiply_add(noise, normal[i], shrink * p[i]);
    }
}

DEFINE(perturb) {
    const int64_t *layout = ADDRESS(const int64_t, a[0].i), parameters = a[1].i, threads = a[4].i;
    work w = {.shrink = (scalar)a[2].d, .noise = (scalar)a[3].d};

    for (int64_t i = 0; i < parameters; i++) {
        const int64_t *field = layout + i * FIELDS;
        w.p = ADDRESS(scalar, field[0]), w.elements = field[1], w.key = (uint64_t)field[2], w.stream = (uint32_t)field[3];
        in_parallel(perturb_tiles, &w, (w.elements + TILE - 1) / TILE, w.elements, threads);
    }
}
