// Moves parameters by a part of the step that an optimizer has made: p <- before + rate (p - before) with rate = 1 / (factor m + 1).
//
//   0  address of the layout: FIELDS numbers per parameter, which are the addresses of p, of its values before the step and of m, its rows,
//      columns, elements of each column in a row, the distances of m from row to row and from column to column (0: the same m), and the
//      number of its factor
//   1  number of parameters
//   2  address of the factors, scalars
//   3  number of threads
#include "kernels.h"

enum { FIELDS = 9 };

typedef struct {
    scalar *p;
    const scalar *before, *measure;
    int64_t columns, inner, by_row, by_column;
    scalar factor;
} work;

// as torch.lerp: exact at both ends
INLINED scalar moved(scalar before, scalar p, scalar rate) {
    const scalar step = p - before;
    return rate < (scalar)0.5 ? multiply_add(rate, step, before) : multiply_add(rate - 1, step, p);
}

INLINED void move_all(scalar *restrict p, const scalar *restrict before, int64_t n, scalar rate) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) p[i] = moved(before[i], p[i], rate);
}

static void move_rows(const void *context, int64_t first, int64_t last) {
    const work *w = context;
    const int64_t columns = w->columns, inner = w->inner, size = columns * inner;
    const scalar factor = w->factor;
    for (int64_t row = first; row < last; row++) {
        scalar *restrict p = w->p + row * size;
        const scalar *restrict before = w->before + row * size, *restrict measure = w->measure + row * w->by_row;
        if (!w->by_column) {
            move_all(p, before, size, 1 / (measure[0] * factor + 1));
        } else if (inner == 1) {
#pragma omp simd
            for (int64_t i = 0; i < columns; i++) p[i] = moved(before[i], p[i], 1 / (measure[i] * factor + 1));
        } else {
            for (int64_t i = 0; i < columns; i++)
                move_all(p + i * inner, before + i * inner, inner, 1 / (measure[i] * factor + 1));
        }
    }
}

DEFINE(slowed_step) {
    const int64_t *layout = ADDRESS(const int64_t, a[0].i), parameters = a[1].i, threads = a[3].i;
    const scalar *factors = ADDRESS(const scalar, a[2].i);
    work w;

    for (const int64_t *field = layout; field < layout + FIELDS * parameters; field += FIELDS) {
        w.p = ADDRESS(scalar, field[0]), w.before = ADDRESS(const scalar, field[1]), w.measure = ADDRESS(const scalar, field[2]);
        w.columns = field[4], w.inner = field[5], w.by_row = field[6], w.by_column = field[7];
        w.factor = factors[field[8]];
        in_parallel(move_rows, &w, field[3], field[3] * field[4] * field[5], threads);
    }
}
