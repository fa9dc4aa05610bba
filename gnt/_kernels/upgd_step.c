// Moves several parameters: p <- keep p + rate (g + n) (1 - U), or rate (g + n (1 - U)), with noise n and 1 - U = sigmoid(u / divisor).
//
//   0  address of the layout: FIELDS numbers per parameter, which are the addresses of p, of the direction g and of u, the number of
//      elements, the key of its noise, and the number of its stream
//   1  number of parameters
//   2  address of the divisors, a scalar per parameter
//   3  standard deviation of the noise; 0: none
//   4  keep
//   5  rate
//   6  0: the utility reduces the noise only
//   7  number of threads
#include "random_normal.h"

enum { FIELDS = 6 };

typedef struct {
    scalar *p;
    const scalar *g, *u;
    int64_t elements;
    uint64_t key;
    uint32_t stream;
    scalar divisor, sigma, keep, rate;
    int protecting;
} work;

INLINED scalar free_share(scalar u, scalar divisor) { return 1 / (1 + BY_TYPE(u, vector_exp, (exp))(-u / divisor)); }

static void move_tiles(const void *context, int64_t first, int64_t last) {
    const work *w = context;
    const scalar divisor = w->divisor, sigma = w->sigma, keep = w->keep, rate = w->rate;
    scalar noise[TILE] = {0};
    for (int64_t tile = first; tile < last; tile++) {
        const int64_t begin = tile * TILE, size = smaller(TILE, w->elements - begin);
        scalar *restrict p = w->p + begin;
        const scalar *restrict g = w->g + begin, *restrict u = w->u + begin;
        if (sigma != 0) normal_tile(noise, w->key, w->stream, (uint64_t)tile);
        if (w->protecting) {
#pragma omp simd
            for (int64_t i = 0; i < size; i++)
                p[i] = multiply_add(rate, multiply_add(sigma, noise[i], g[i]) * free_share(u[i], divisor), keep * p[i]);
        } else {
#pragma omp simd
            for (int64_t i = 0; i < size; i++)
                p[i] = multiply_add(rate, multiply_add(sigma * noise[i], free_share(u[i], divisor), g[i]), keep * p[i]);
        }
    }
}

DEFINE(upgd_step) {
    const int64_t *layout = ADDRESS(const int64_t, a[0].i), parameters = a[1].i, threads = a[7].i;
    const scalar *divisors = ADDRESS(const scalar, a[2].i);
    work w = {.sigma = (scalar)a[3].d, .keep = (scalar)a[4].d, .rate = (scalar)a[5].d, .protecting = a[6].i != 0};

    for (int64_t i = 0; i < parameters; i++) {
        const int64_t *field = layout + i * FIELDS;
        w.p = ADDRESS(scalar, field[0]), w.g = ADDRESS(const scalar, field[1]), w.u = ADDRESS(const scalar, field[2]);
        w.elements = field[3], w.key = (uint64_t)field[4], w.stream = (uint32_t)field[5], w.divisor = divisors[i];
        in_parallel(move_tiles, &w, (w.elements + TILE - 1) / TILE, w.elements, threads);
    }
}
