// The statistics of an update for simple groups of units, in one call: mean features, mean |h| or mean |h - f^|, the mean |w| of the
// weights that the measure reads, and the utility of each unit.
//
//   0  address of the groups, GROUP numbers each: the addresses of the feature h (samples, positions, sites), of the mean features,
//      utilities and magnitudes (written), of the running mean features, of the update numbers at which the units started, and of
//      the outgoing and incoming magnitudes; then number of samples (0: the group takes no part), positions, sites, positions per
//      unit, and by how much the number of its update is less than ``now``
//   1  address of the weights, WEIGHT numbers each: the addresses of w (groups, rows, columns, inner) and of the means of |w| over
//      rows and over columns (or 0); then groups, rows, columns, inner (the size of a convolution's kernel), and whether the means
//      are up to date already
//   2  address of two doubles: decay rate, log(decay rate)
//   3  address of scratch memory: for the largest group 3 * positions scalars, and for the largest weight with means over columns
//      groups * ceil(rows / CHUNK_ROWS) * columns
//   4  number of groups
//   5  number of weights
//   6  what is read; 1: features, 2: outgoing weights, 4: incoming weights; 8: use |h - f^| instead of |h|, with f^ the corrected
//      running mean after this batch has entered it
//   7  number of this update, ``now``; the age of a unit is now - start
//   8  number of threads
//
// All sums are computed in parts of fixed sizes that are added in a fixed order: they do not depend on the number of threads.
//
// Weights are read from the last one to the first: the last ones are those that an optimizer has just written, so that they may
// still be in the cache, and the next forward begins with the first ones.
#include "kernels.h"

enum { GROUP = 13, WEIGHT = 8, CHUNK_ROWS = 64, RUN_SAMPLES = 64 };
enum { PLAIN, DISTANCE };  // h, |h - center|

typedef struct {
    const int64_t *group;
    const double *numbers;
    scalar *scratch;
    int64_t reads, now, width;  // width: number of units that are processed together
} feature_work;

INLINED scalar term(scalar h, const scalar *center, int64_t p, const int kind) {
    return kind == PLAIN ? h : fabs(h - center[p]);
}

// Sums over samples and sites, for the positions first..last. Samples are summed in runs, so that the rounding error grows with the
// length plus the number of runs, not with their product.
INLINED void sums(const scalar *restrict h, int64_t samples, int64_t positions, int64_t sites, int64_t first, int64_t last,
                  scalar *restrict out, scalar *restrict run, const scalar *restrict center, const int kind) {
    for (int64_t p = first; p < last; p++) out[p] = 0;
    for (int64_t begin = 0; begin < samples; begin += RUN_SAMPLES) {
        for (int64_t p = first; p < last; p++) run[p] = 0;
        for (int64_t s = begin; s < smaller(begin + RUN_SAMPLES, samples); s++) {
            const scalar *restrict line = h + s * positions * sites;
            if (sites == 1) {
#pragma omp simd
                for (int64_t p = first; p < last; p++) run[p] += term(line[p], center, p, kind);
            } else {
                for (int64_t p = first; p < last; p++) {
                    scalar sum = 0;
#pragma omp simd reduction(+ : sum)
                    for (int64_t q = 0; q < sites; q++) sum += term(line[p * sites + q], center, p, kind);
                    run[p] += sum;
                }
            }
        }
#pragma omp simd
        for (int64_t p = first; p < last; p++) out[p] += run[p];
    }
}

// Sums of h and of |h| in one pass, each added in the same order as by `sums`.
static void both_sums(const scalar *restrict h, int64_t samples, int64_t positions, int64_t sites, int64_t first, int64_t last,
                      scalar *restrict plain, scalar *restrict out, scalar *restrict plain_run, scalar *restrict run) {
    for (int64_t p = first; p < last; p++) plain[p] = out[p] = 0;
    for (int64_t begin = 0; begin < samples; begin += RUN_SAMPLES) {
        for (int64_t p = first; p < last; p++) plain_run[p] = run[p] = 0;
        for (int64_t s = begin; s < smaller(begin + RUN_SAMPLES, samples); s++) {
            const scalar *restrict line = h + s * positions * sites;
            if (sites == 1) {
#pragma omp simd
                for (int64_t p = first; p < last; p++) plain_run[p] += line[p], run[p] += fabs(line[p]);
            } else {
                for (int64_t p = first; p < last; p++) {
                    scalar sum = 0, magnitudes = 0;
#pragma omp simd reduction(+ : sum, magnitudes)
                    for (int64_t q = 0; q < sites; q++) sum += line[p * sites + q], magnitudes += fabs(line[p * sites + q]);
                    plain_run[p] += sum, run[p] += magnitudes;
                }
            }
        }
#pragma omp simd
        for (int64_t p = first; p < last; p++) plain[p] += plain_run[p], out[p] += run[p];
    }
}

static void means_of_units(scalar *means, const scalar *sums_of_positions, int64_t from, int64_t to, int64_t block, scalar count) {
    for (int64_t unit = from; unit < to; unit++) {
        scalar mean = 0;
        for (int64_t p = unit * block; p < (unit + 1) * block; p++) mean += sums_of_positions[p] / count;
        means[unit] = mean / block;
    }
}

static void feature_pieces(const void *context, int64_t first_piece, int64_t last_piece) {
    const feature_work *w = context;
    const int64_t *g = w->group;
    const scalar *h = ADDRESS(const scalar, g[0]);
    scalar *means = ADDRESS(scalar, g[1]), *out = ADDRESS(scalar, g[3]);
    const scalar *average = ADDRESS(const scalar, g[4]);
    const int64_t *born = ADDRESS(const int64_t, g[5]);
    const int64_t positions = g[9], block = g[11], units = positions / block;
    const scalar count = (scalar)(g[8] * g[10]), weight = (scalar)(1 - w->numbers[0]);
    scalar *run = w->scratch, *center = run + positions, *plain = center + positions;
    for (int64_t piece = first_piece; piece < last_piece; piece++) {
        const int64_t from = piece * w->width, to = smaller(from + w->width, units), first = from * block, last = to * block;
        if (w->reads & 8) {
            sums(h, g[8], g[9], g[10], first, last, plain, run, 0, PLAIN);
            means_of_units(means, plain, from, to, block, count);
            for (int64_t unit = from; unit < to; unit++) {
                const scalar age = (scalar)(w->now - g[12] - born[unit]);
                const scalar correction =
                    w->numbers[0] > 0 ? -expm1(age * (scalar)w->numbers[1]) : age < 1 ? age : (scalar)1;
                const scalar next = average[unit] + weight * (means[unit] - average[unit]);
                for (int64_t p = unit * block; p < (unit + 1) * block; p++)
                    center[p] = next / (correction < SMALLEST_NORMAL ? SMALLEST_NORMAL : correction);
            }
            sums(h, g[8], g[9], g[10], first, last, out, run, center, DISTANCE);
        } else if (w->reads & 1) {
            both_sums(h, g[8], g[9], g[10], first, last, plain, out, center, run);
            means_of_units(means, plain, from, to, block, count);
        } else {
            sums(h, g[8], g[9], g[10], first, last, plain, run, 0, PLAIN);
            means_of_units(means, plain, from, to, block, count);
        }
        for (int64_t p = first; w->reads & 1 && p < last; p++) out[p] /= count;
    }
}

static void feature_statistics(const int64_t *g, const double *numbers, scalar *scratch, int64_t reads, int64_t now,
                               int64_t threads) {
    const int64_t samples = g[8], positions = g[9], sites = g[10], block = g[11], units = positions / block;
    const feature_work w = {g, numbers, scratch, reads, now, larger(1, (sites == 1 ? 512 : 8) / block)};
    in_parallel(feature_pieces, &w, (units + w.width - 1) / w.width, samples * positions * sites, threads);
}

typedef struct {
    const int64_t *field;
    scalar *partial;
    int64_t chunks;
} weight_work;

INLINED scalar weight_row(const scalar *restrict line, scalar *restrict column_sums, int64_t columns) {
    scalar total = 0;
#pragma omp simd reduction(+ : total)
    for (int64_t i = 0; i < columns; i++) {
        const scalar magnitude = fabs(line[i]);
        total += magnitude;
        column_sums[i] += magnitude;
    }
    return total;
}

static void weight_chunks(const void *context, int64_t first_item, int64_t last_item) {
    const weight_work *w = context;
    const scalar *weight = ADDRESS(const scalar, w->field[0]);
    scalar *row_means = ADDRESS(scalar, w->field[1]);
    const int64_t rows = w->field[4], columns = w->field[5], inner = w->field[6];
    for (int64_t item = last_item - 1; item >= first_item; item--) {
        const int64_t group = item / w->chunks, first = item % w->chunks * CHUNK_ROWS, last = smaller(first + CHUNK_ROWS, rows);
        scalar *column_sums = w->partial ? w->partial + item * columns : 0;
        if (column_sums) memset(column_sums, 0, columns * sizeof(scalar));
        for (int64_t row = first; row < last; row++) {
            const scalar *line = weight + (group * rows + row) * columns * inner;
            scalar total = 0;
            if (!column_sums) {
#pragma omp simd reduction(+ : total)
                for (int64_t i = 0; i < columns * inner; i++) total += fabs(line[i]);
            } else if (inner == 1) {
                total = weight_row(line, column_sums, columns);
            } else {
                for (int64_t i = 0; i < columns; i++) {
                    scalar sum = 0;
#pragma omp simd reduction(+ : sum)
                    for (int64_t j = 0; j < inner; j++) sum += fabs(line[i * inner + j]);
                    column_sums[i] += sum;
                    total += sum;
                }
            }
            if (row_means) row_means[group * rows + row] = total / (columns * inner);
        }
    }
}

static void weight_means(const int64_t *field, scalar *scratch, int64_t threads) {
    scalar *column_means = ADDRESS(scalar, field[2]);
    const int64_t groups = field[3], rows = field[4], columns = field[5], inner = field[6];
    const weight_work w = {field, column_means ? scratch : 0, (rows + CHUNK_ROWS - 1) / CHUNK_ROWS};
    in_parallel(weight_chunks, &w, groups * w.chunks, groups * rows * columns * inner, threads);
    for (int64_t group = 0; column_means && group < groups; group++) {
        scalar *means = column_means + group * columns;
        for (int64_t chunk = 0; chunk < w.chunks; chunk++) {
            const scalar *column_sums = scratch + (group * w.chunks + chunk) * columns;
            for (int64_t i = 0; i < columns; i++) means[i] = chunk ? means[i] + column_sums[i] : column_sums[i];
        }
        for (int64_t i = 0; i < columns; i++) means[i] /= rows * inner;
    }
}

// The utility: the mean over a unit's positions of the product of signals, divided by the incoming magnitude.
static void compute_utilities(const int64_t *g, int64_t reads) {
    scalar *utilities = ADDRESS(scalar, g[2]);
    const scalar *feature = ADDRESS(const scalar, g[3]), *outgoing = ADDRESS(const scalar, g[6]);
    const scalar *incoming = ADDRESS(const scalar, g[7]);
    const int64_t block = g[11], units = g[9] / block;
    for (int64_t unit = 0; unit < units; unit++) {
        scalar utility = reads & 3 ? 0 : 1;
        if (reads & 3) {
            for (int64_t p = unit * block; p < (unit + 1) * block; p++)
                utility += (reads & 1 ? feature[p] : (scalar)1) * (reads & 2 ? outgoing[p] : (scalar)1);
            utility /= block;
        }
        if (reads & 4) utility /= incoming[unit] < EPSILON ? EPSILON : incoming[unit];
        utilities[unit] = utility;
    }
}

DEFINE(unit_statistics) {
    const int64_t *groups = ADDRESS(const int64_t, a[0].i), *weights = ADDRESS(const int64_t, a[1].i);
    const double *numbers = ADDRESS(const double, a[2].i);
    scalar *scratch = ADDRESS(scalar, a[3].i);
    const int64_t num_groups = a[4].i, num_weights = a[5].i, reads = a[6].i, now = a[7].i, threads = a[8].i;
    for (int64_t i = 0; i < num_groups; i++)
        if (groups[i * GROUP + 8]) feature_statistics(groups + i * GROUP, numbers, scratch, reads, now, threads);
    for (int64_t i = num_weights - 1; i >= 0; i--)
        if (!weights[i * WEIGHT + 7]) weight_means(weights + i * WEIGHT, scratch, threads);
    for (int64_t i = 0; i < num_groups; i++)
        if (groups[i * GROUP + 8]) compute_utilities(groups + i * GROUP, reads);
}
