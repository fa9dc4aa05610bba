// Lets the utilities of the weights of a parameter enter their running averages: u <- u + weight (|g w| - u), or with |w| in place of
// |g w|.
//
//   0  address of u
//   1  address of g, or 0: |w|
//   2  address of w
//   3  number of elements
//   4  weight
//   5  number of threads
//
// Elements are processed from the last one to the first: an optimizer has just written the last ones.
#include "kernels.h"

enum { TILE = 1024 };

typedef struct {
    scalar *u;
    const scalar *g, *w;
    int64_t elements;
    scalar weight;
} work;

INLINED void advance(scalar *restrict u, const scalar *restrict g, const scalar *restrict w, int64_t n, scalar weight,
                     const int with_gradient) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        u[i] = multiply_add(weight, fabs(with_gradient ? g[i] * w[i] : w[i]) - u[i], u[i]);
}

static void advance_tiles(const void *context, int64_t first, int64_t last) {
    const work *each = context;
    for (int64_t tile = last - 1; tile >= first; tile--) {
        const int64_t begin = tile * TILE, size = smaller(TILE, each->elements - begin);
        if (each->g)
            advance(each->u + begin, each->g + begin, each->w + begin, size, each->weight, 1);
        else
            advance(each->u + begin, 0, each->w + begin, size, each->weight, 0);
    }
}

DEFINE(weight_utility) {
    const work each = {ADDRESS(scalar, a[0].i), ADDRESS(const scalar, a[1].i), ADDRESS(const scalar, a[2].i), a[3].i,
                       (scalar)a[4].d};
    in_parallel(advance_tiles, &each, (each.elements + TILE - 1) / TILE, each.elements, a[5].i);
}
