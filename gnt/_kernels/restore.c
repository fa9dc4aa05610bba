// Writes kept values back into some entries of several parameters, bit by bit.
//
//   0  address of the layout: FIELDS numbers per parameter, which are its address, the addresses of the values, of the bits of the
//      parameter that stay (or 0: none in the rows that are written, and the values are those of these rows one after the other), and of
//      the numbers of these rows, int64; how many rows are written, and elements of a row
//   1  number of parameters
//   2  number of threads
#include "kernels.h"

enum { FIELDS = 6 };

typedef uint32_t bits_float;
typedef uint64_t bits_double;
typedef OF_TYPE(bits, scalar) bits;

typedef struct {
    bits *p;
    const bits *held, *kept;
    const int64_t *rows;
    int64_t size;
} work;

static void write_rows(const void *context, int64_t first, int64_t last) {
    const work *w = context;
    const int64_t size = w->size;
    for (int64_t number = first; number < last; number++) {
        bits *restrict p = w->p + w->rows[number] * size;
        if (!w->kept) {
            memcpy(p, w->held + number * size, size * sizeof(bits));
            continue;
        }
        const bits *restrict held = w->held + w->rows[number] * size, *restrict kept = w->kept + w->rows[number] * size;
#pragma omp simd
        for (int64_t i = 0; i < size; i++) p[i] = (p[i] & kept[i]) | held[i];
    }
}

DEFINE(restore) {
    const int64_t *layout = ADDRESS(const int64_t, a[0].i), parameters = a[1].i, threads = a[2].i;
    for (const int64_t *field = layout; field < layout + FIELDS * parameters; field += FIELDS) {
        const work w = {
            .p = ADDRESS(bits, field[0]),
            .held = ADDRESS(const bits, field[1]),
            .kept = ADDRESS(const bits, field[2]),
            .rows = ADDRESS(const int64_t, field[3]),
            .size = field[5],
        };
        in_parallel(write_rows, &w, field[4], field[4] * field[5], threads);
    }
}
