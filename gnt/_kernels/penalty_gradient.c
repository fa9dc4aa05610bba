// Adds the gradient of a penalty, factor * A (p - mu), to the gradients of several parameters and, in the same pass over memory,
// copies gradients and parameters as they were before, where that is asked for.
//
//   0  address of the layout: FIELDS numbers per parameter, which are the addresses of p, of its gradient, of A and mu (both 0: nothing
//      is added), of the copies of gradient and parameter (both 0: nothing is copied), and the number of elements
//   1  number of parameters
//   2  factor, a float
//   3  1: the copies are too large for the cache, so that they are written around it
//   4  number of threads
#include "kernels.h"

// stores that do not read the memory that they write, and leave the cache to what is read again
#if defined(__AVX__)
#include <immintrin.h>
typedef __m256i wide;
#define LOAD(from) _mm256_loadu_si256((const wide *)(from))
#define STORE_AROUND_CACHE(to, value) _mm256_stream_si256((wide *)(to), value)
#define FINISH_STORES() _mm_sfence()
#elif defined(__SSE2__)
#include <emmintrin.h>
typedef __m128i wide;
#define LOAD(from) _mm_loadu_si128((const wide *)(from))
#define STORE_AROUND_CACHE(to, value) _mm_stream_si128((wide *)(to), value)
#define FINISH_STORES() _mm_sfence()
#else
typedef scalar wide;
#define LOAD(from) (*(from))
#define STORE_AROUND_CACHE(to, value) (*(to) = (value))
#define FINISH_STORES()
#endif

enum { FIELDS = 7, TILE = 256 };

typedef struct {
    const scalar *p, *importance, *anchor;
    scalar *g, *g_copy, *p_copy;
    int64_t elements;
    scalar factor;
    int around_cache;
} work;

INLINED void copy_around_cache(scalar *to, const scalar *from, int64_t n) {
    enum { AT_ONCE = sizeof(wide) / sizeof(scalar) };
    int64_t done = 0;
    if ((intptr_t)to % sizeof(wide) == 0)
        for (; done + AT_ONCE <= n; done += AT_ONCE) STORE_AROUND_CACHE(to + done, LOAD(from + done));
    memcpy(to + done, from + done, (n - done) * sizeof(scalar));
}

static void add_to_tiles(const void *context, int64_t first, int64_t last) {
    const work *w = context;
    const scalar factor = w->factor;
    for (int64_t tile = first; tile < last; tile++) {
        const int64_t start = tile * TILE, n = smaller(TILE, w->elements - start);
        scalar *restrict g = w->g + start;
        const scalar *restrict p = w->p + start, *restrict importance = w->importance + start, *restrict anchor = w->anchor + start;
        if (w->g_copy && w->around_cache) {
            copy_around_cache(w->g_copy + start, g, n);
            copy_around_cache(w->p_copy + start, p, n);
        } else if (w->g_copy) {
            memcpy(w->g_copy + start, g, n * sizeof(scalar));
            memcpy(w->p_copy + start, p, n * sizeof(scalar));
        }
        if (!w->importance) continue;
#pragma omp simd
        for (int64_t i = 0; i < n; i++) g[i] = multiply_add(factor, importance[i] * (p[i] - anchor[i]), g[i]);
    }
    FINISH_STORES();
}

DEFINE(penalty_gradient) {
    const int64_t *layout = ADDRESS(const int64_t, a[0].i), parameters = a[1].i, threads = a[4].i;
    work w = {.factor = (scalar)a[2].d, .around_cache = (int)a[3].i};

    for (const int64_t *field = layout; field < layout + FIELDS * parameters; field += FIELDS) {
        w.p = ADDRESS(const scalar, field[0]), w.g = ADDRESS(scalar, field[1]);
        w.importance = ADDRESS(const scalar, field[2]), w.anchor = ADDRESS(const scalar, field[3]);
        w.g_copy = ADDRESS(scalar, field[4]), w.p_copy = ADDRESS(scalar, field[5]);
        w.elements = field[6];
        in_parallel(add_to_tiles, &w, (w.elements + TILE - 1) / TILE, w.elements, threads);
    }
}
