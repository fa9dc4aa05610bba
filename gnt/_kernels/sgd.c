// One step of plain gradient descent on several parameters and, in the same pass over memory, the means of |p| over the rows and
// columns of those that are asked for.
//
//   0  address of the layout: FIELDS numbers per parameter, which are its address, rows, columns, the addresses for the means of its
//      rows and columns (or 0), and the number of rows over which columns are averaged: all, or those of each of several groups
//   1  address of the addresses of the gradients
//   2  address of the options, doubles: lr, weight decay
//   3  address of scratch memory: for the largest matrix with means of columns, columns * ceil(rows / CHUNK_ROWS) scalars for each
//      group of rows
//   4  number of parameters
//   5  flags; 4: maximize
//   6  number of threads
//
// Rows are processed in chunks of a fixed height, so that the sums do not depend on the number of threads.
#include "kernels.h"

enum { FIELDS = 6, CHUNK_ROWS = 64 };

typedef struct {
    scalar *p, *partial, *row_means;
    const scalar *g;
    int64_t averaged, columns, chunks;  // number of rows over which columns are averaged, and of chunks in them
    scalar rate, decay, sign;
} work;

INLINED scalar step_row(scalar *restrict p, const scalar *restrict g, scalar *restrict sums, int64_t n, const work *w,
                        const int summed) {
    const scalar rate = w->rate, decay = w->decay, sign = w->sign;
    scalar total = 0;
#pragma omp simd reduction(+ : total)
    for (int64_t j = 0; j < n; j++) {
        const scalar next = multiply_add(rate, multiply_add(decay, p[j], sign * g[j]), p[j]);
        p[j] = next;
        total += fabs(next);
        if (summed) sums[j] += fabs(next);
    }
    return total;
}

static void step_chunks(const void *context, int64_t first, int64_t last) {
    const work *w = context;
    const int64_t columns = w->columns;
    for (int64_t chunk = first; chunk < last; chunk++) {
        const int64_t start = chunk / w->chunks * w->averaged, first_row = start + chunk % w->chunks * CHUNK_ROWS;
        scalar *sums = w->partial + chunk * columns;
        if (w->partial) memset(sums, 0, columns * sizeof(scalar));
        for (int64_t row = first_row; row < smaller(first_row + CHUNK_ROWS, start + w->averaged); row++) {
            scalar *p = w->p + row * columns;
            const scalar *g = w->g + row * columns;
            const scalar total = w->partial ? step_row(p, g, sums, columns, w, 1) : step_row(p, g, 0, columns, w, 0);
            if (w->row_means) w->row_means[row] = total / columns;
        }
    }
}

DEFINE(sgd) {
    const int64_t *layout = ADDRESS(const int64_t, a[0].i), *grads = ADDRESS(const int64_t, a[1].i);
    const double *options = ADDRESS(const double, a[2].i);
    scalar *scratch = ADDRESS(scalar, a[3].i);
    const int64_t parameters = a[4].i, flags = a[5].i, threads = a[6].i;
    work w = {.rate = (scalar)-options[0], .decay = (scalar)options[1], .sign = flags & 4 ? -1 : 1};

    for (int64_t i = 0; i < parameters; i++) {
        const int64_t *field = layout + i * FIELDS, rows = field[1], columns = field[2];
        scalar *column_means = ADDRESS(scalar, field[4]);
        w.p = ADDRESS(scalar, field[0]), w.g = ADDRESS(const scalar, grads[i]);
        w.averaged = field[5], w.columns = columns, w.chunks = (w.averaged + CHUNK_ROWS - 1) / CHUNK_ROWS;
        w.row_means = ADDRESS(scalar, field[3]), w.partial = column_means ? scratch : 0;
        const int64_t groups = rows / larger(w.averaged, 1);
        in_parallel(step_chunks, &w, groups * w.chunks, rows * columns, threads);
        for (int64_t group = 0; column_means && group < groups; group++) {
            const scalar *sums = scratch + group * w.chunks * columns;
            scalar *means = column_means + group * columns;
            for (int64_t chunk = 0; chunk < w.chunks; chunk++)
                for (int64_t j = 0; j < columns; j++) means[j] = chunk ? means[j] + sums[chunk * columns + j] : sums[j];
            for (int64_t j = 0; j < columns; j++) means[j] /= w.averaged;
        }
    }
}
