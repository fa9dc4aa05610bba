// One step of Adam on several parameters, in one pass over memory: parameter, gradient and moments are read once and written once.
// Every row and column of a parameter can have its own step count; see optim/_adam/step_counts.py.
//
//   0   address of the layout, FIELDS numbers per parameter: the addresses of the parameter, the moments m and v, the maximum of v
//       (or 0), row_start and column_start (or 0); number of rows, elements per row, elements per column in a row, columns of all
//       groups, rows per group; for a matrix, the addresses for the means of |p| over each row and each column (or 0), and the number
//       of rows over which columns are averaged: all, or those of each of several groups
//   1   address of the addresses of the gradients
//   2   address of the number of steps of each parameter before this one, doubles; incremented here
//   3   address of the options, doubles: lr, b1, b2, eps, weight decay
//   4   address of 1 - b1^k for k = 0, 1, ..., doubles; larger counts are computed
//   5   address of sqrt(1 - b2^k)
//   6   address of scratch memory: for the largest parameter 2 * columns * elements per column scalars with column_start, and
//       elements per row * ceil(rows / CHUNK_ROWS), for each group of rows, with means over columns
//   7   number of entries at 4
//   8   number of entries at 5
//   9   number of parameters
//   10  flags; 1: decoupled weight decay, 2: amsgrad, 4: maximize
//   11  number of threads
#include "kernels.h"

enum { FIELDS = 14, CHUNK_ROWS = 64, BLOCK = 1 << 14 };

typedef struct {  // 1 - b^k or its square root, for one decay rate b; from the table if it is long enough
    const double *table;
    int64_t length;
    double beta;
    int root;
    double saturated;  // from this count on b^k is below e^-37.5 < 2^-54, so 1 - b^k is 1
} correction;

static double correction_at(const correction *c, int64_t k) {
    k = larger(k, 1);  // a count below 1 is an error of the caller; avoid division by zero
    if (k < c->length) return c->table[k];
    if ((double)k >= c->saturated) return 1.0;
    const double value = 1.0 - pow(c->beta, (double)k);
    return c->root ? pow(value, 0.5) : value;  // like Python's ** 0.5, which can differ from sqrt in the last bit
}

typedef struct {  // the constants of a step, in the dtype of the parameters
    scalar keep, decay, sign, lerp, stay, give, eps, least;
    int lerp_from_grad;
} step;

typedef struct {  // one row: its tensors, and lr / (1 - b1^k) and 1 / sqrt(1 - b2^k); if columns have counts, of each element's
    scalar *p, *m, *v, *u;
    const scalar *g;
    scalar size, root;
    const scalar *sizes, *roots;
    scalar *sums;  // to which |p| is added
    int64_t n;
} row;

// Updates a row in torch's order of operations; returns the sum of |p|.
INLINED scalar update(const row *r, const step *s, const int columns, const int decayed, const int amsgrad, const int summed) {
    scalar *restrict p = r->p, *restrict m = r->m, *restrict v = r->v, *restrict u = r->u, *restrict sums = r->sums;
    const scalar *restrict g = r->g, *restrict sizes = r->sizes, *restrict roots = r->roots;
    const scalar keep = s->keep, decay = s->decay, sign = s->sign, lerp = s->lerp, stay = s->stay, give = s->give;
    const scalar eps = s->eps, least = s->least, row_size = r->size, row_root = r->root;
    const int lerp_from_grad = s->lerp_from_grad;
    const int64_t n = r->n;
    scalar total = 0;
#pragma omp simd reduction(+ : total)
    for (int64_t k = 0; k < n; k++) {
        const scalar before = m[k], theta = p[k];
        scalar grad = g[k] * sign;
        if (decayed) grad = multiply_add(decay, theta, grad);
        scalar first = multiply_add(lerp, grad - before, lerp_from_grad ? grad : before);
        scalar second = multiply_add(give * grad, grad, v[k] * stay);
        first = fabs(first) < least ? (scalar)0 : first;
        second = second < least ? (scalar)0 : second;
        m[k] = first;
        v[k] = second;
        if (amsgrad) {
            second = second < u[k] ? u[k] : second;
            u[k] = second;
        }
        scalar size = row_size, root = row_root;
        if (columns) {
            size = size < sizes[k] ? sizes[k] : size;
            root = root < roots[k] ? roots[k] : root;
        }
        const scalar next = theta * keep - (size * first) / (sqrt(second) * root + eps);
        p[k] = next;
        total += fabs(next);
        if (summed) sums[k] += fabs(next);
    }
    return total;
}

typedef scalar (*updater)(const row *, const step *);
#define VARIANT(c, d, a, s) \
    static scalar update_##c##d##a##s(const row *r, const step *constants) { return update(r, constants, c, d, a, s); }
#define VARIANTS(c, d) VARIANT(c, d, 0, 0) VARIANT(c, d, 0, 1) VARIANT(c, d, 1, 0) VARIANT(c, d, 1, 1)
VARIANTS(0, 0) VARIANTS(0, 1) VARIANTS(1, 0) VARIANTS(1, 1)
#define NAMES(c, d) {{update_##c##d##00, update_##c##d##01}, {update_##c##d##10, update_##c##d##11}}
static const updater UPDATERS[2][2][2][2] = {{NAMES(0, 0), NAMES(0, 1)}, {NAMES(1, 0), NAMES(1, 1)}};

typedef struct {  // the step of one parameter
    scalar *p, *m, *v, *u, *row_means, *partial, *column_size, *column_root;
    const scalar *g;
    const int64_t *row_start;
    int64_t now, rows, elements, total, per_group;
    int64_t averaged, height, chunks;  // number of rows over which columns are averaged, of a chunk, and number of chunks in them
    scalar unreset_size, unreset_root;
    double lr;
    const correction *first, *second;
    const step *constants;
    updater update;
} work;

static scalar size_at(const work *w, int64_t start) { return (scalar)(w->lr / correction_at(w->first, w->now - start)); }

static scalar root_at(const work *w, int64_t start) { return (scalar)(1.0 / correction_at(w->second, w->now - start)); }

static void update_chunks(const void *context, int64_t first_chunk, int64_t last_chunk) {
    const work *w = context;
    const int64_t elements = w->elements;
    for (int64_t chunk = first_chunk; chunk < last_chunk; chunk++) {
        const int64_t averaged = chunk / w->chunks * w->averaged, first = averaged + chunk % w->chunks * w->height;
        scalar *sums = w->partial ? w->partial + chunk * elements : 0;
        if (sums) memset(sums, 0, elements * sizeof(scalar));
        for (int64_t i = first; i < smaller(first + w->height, averaged + w->averaged); i++) {
            const int64_t at = i * elements, start = w->row_start ? w->row_start[i] : 0;
            const int64_t beside = w->column_size ? i / w->per_group * elements : 0;
            const row r = {
                .p = w->p + at, .m = w->m + at, .v = w->v + at, .u = w->u ? w->u + at : 0, .g = w->g + at,
                .size = start ? size_at(w, start) : w->unreset_size, .root = start ? root_at(w, start) : w->unreset_root,
                .sizes = w->column_size + beside, .roots = w->column_root + beside, .sums = sums,
                .n = smaller(elements, w->total - at),
            };
            const scalar sum = w->update(&r, w->constants);
            if (w->row_means) w->row_means[i] = sum / elements;
        }
    }
}

// The factors of each column. The smaller count of row and column gives the larger factors.
static void fill_columns(const work *w, const int64_t *starts, int64_t columns, int64_t inner) {
    for (int64_t c = 0; c < columns; c++) {
        const scalar size = starts[c] ? size_at(w, starts[c]) : w->unreset_size;
        const scalar root = starts[c] ? root_at(w, starts[c]) : w->unreset_root;
        for (int64_t k = c * inner; k < (c + 1) * inner; k++) w->column_size[k] = size, w->column_root[k] = root;
    }
}

DEFINE(adam) {
    const int64_t *layout = ADDRESS(const int64_t, a[0].i), *grads = ADDRESS(const int64_t, a[1].i);
    double *counts = ADDRESS(double, a[2].i);
    const double *options = ADDRESS(const double, a[3].i);
    scalar *scratch = ADDRESS(scalar, a[6].i);
    const int64_t parameters = a[9].i, flags = a[10].i, threads = a[11].i;
    const double lr = options[0], beta1 = options[1], beta2 = options[2], eps = options[3], decay = options[4];
    const int decoupled = (flags & 1) != 0, amsgrad = (flags & 2) != 0, decayed = decay != 0 && !decoupled;
    const double weight = 1.0 - beta1;
    step s = {
        .keep = decoupled && decay != 0 ? (scalar)(1.0 - lr * decay) : (scalar)1,
        .decay = (scalar)decay,
        .sign = flags & 4 ? -1 : 1,
        .stay = (scalar)beta2,
        .give = (scalar)(1.0 - beta2),
        .eps = (scalar)eps,
        // subnormal moments are slow to compute with; with eps of this size, setting them to zero does not change the step
        .least = eps >= 1e-10 ? SMALLEST_NORMAL : (scalar)0,
        .lerp_from_grad = !((scalar)weight < (scalar)0.5),
    };
    s.lerp = s.lerp_from_grad ? (scalar)weight - (scalar)1 : (scalar)weight;
    const correction first = {ADDRESS(const double, a[4].i), a[7].i, beta1, 0, beta1 > 0 ? -37.5 / log(beta1) : 0};
    const correction second = {ADDRESS(const double, a[5].i), a[8].i, beta2, 1, beta2 > 0 ? -37.5 / log(beta2) : 0};

    for (int64_t i = 0; i < parameters; i++) {
        const int64_t *field = layout + i * FIELDS, *column_start = ADDRESS(const int64_t, field[5]);
        scalar *column_means = ADDRESS(scalar, field[12]);
        const int64_t columns = field[9], inner = field[8], total = field[6] * field[7];
        counts[i] += 1.0;
        if (total == 0) continue;
        work w = {
            .p = ADDRESS(scalar, field[0]), .m = ADDRESS(scalar, field[1]), .v = ADDRESS(scalar, field[2]),
            .u = amsgrad ? ADDRESS(scalar, field[3]) : 0, .g = ADDRESS(const scalar, grads[i]),
            .row_start = ADDRESS(const int64_t, field[4]), .row_means = ADDRESS(scalar, field[11]),
            .now = (int64_t)counts[i], .rows = field[6], .elements = field[7], .total = total, .per_group = field[10],
            .lr = lr, .first = &first, .second = &second, .constants = &s,
        };
        w.unreset_size = size_at(&w, 0), w.unreset_root = root_at(&w, 0);
        if (column_start) {
            w.column_size = scratch, w.column_root = scratch + columns * inner;
            fill_columns(&w, column_start, columns, inner);
        }
        if (!w.row_start && !column_start && !w.row_means && !column_means)
            w.elements = BLOCK, w.rows = (total + BLOCK - 1) / BLOCK;
        // column sums are computed for CHUNK_ROWS rows at a time and added in a fixed order, so that they do not depend on the
        // number of threads
        w.averaged = column_means ? field[13] : w.rows, w.height = column_means ? CHUNK_ROWS : 1;
        w.chunks = (w.averaged + w.height - 1) / w.height;
        w.partial = column_means ? scratch + (column_start ? 2 * columns * inner : 0) : 0;
        w.update = UPDATERS[column_start != 0][decayed][amsgrad][column_means != 0];
        const int64_t groups = w.rows / w.averaged;
        in_parallel(update_chunks, &w, groups * w.chunks, total, threads);
        for (int64_t group = 0; column_means && group < groups; group++) {
            const scalar *sums = w.partial + group * w.chunks * w.elements;
            scalar *means = column_means + group * w.elements;
            for (int64_t chunk = 0; chunk < w.chunks; chunk++)
                for (int64_t c = 0; c < w.elements; c++)
                    means[c] = chunk ? means[c] + sums[chunk * w.elements + c] : sums[c];
            for (int64_t c = 0; c < w.elements; c++) means[c] /= w.averaged;
        }
    }
}
