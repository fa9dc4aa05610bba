// The products of all pairs of several vectors, each of which is in several pieces: total[i][j] += sum over pieces of u_i . u_j.
//
//   0  address of the layout: for each piece the addresses of the part of each vector (0: it is 0), then its number of elements
//   1  number of pieces
//   2  number of vectors, at most MAX_VECTORS
//   3  address of the total, doubles, vectors * vectors
//
// Within TILE elements products are summed as scalars, and the sums of these as doubles.
#include "kernels.h"

enum { TILE = 512, AT_ONCE = 4, MAX_VECTORS = 256 };

INLINED void add_products(const scalar *restrict u, const scalar *const *v, int64_t start, int64_t n, double *to, const int count) {
    const scalar *restrict v0 = v[0] + start, *restrict v1 = v[count > 1 ? 1 : 0] + start, *restrict v2 = v[count > 2 ? 2 : 0] + start,
                 *restrict v3 = v[count > 3 ? 3 : 0] + start;
    scalar sum0 = 0, sum1 = 0, sum2 = 0, sum3 = 0;
#pragma omp simd reduction(+ : sum0, sum1, sum2, sum3)
    for (int64_t k = 0; k < n; k++) {
        const scalar x = u[k];
        sum0 += x * v0[k];
        if (count > 1) sum1 += x * v1[k];
        if (count > 2) sum2 += x * v2[k];
        if (count > 3) sum3 += x * v3[k];
    }
    const scalar sums[AT_ONCE] = {sum0, sum1, sum2, sum3};
    for (int m = 0; m < count; m++) to[m] += sums[m];
}

DEFINE(gram) {
    const int64_t *layout = ADDRESS(const int64_t, a[0].i), pieces = a[1].i, vectors = a[2].i;
    double *total = ADDRESS(double, a[3].i);
    for (const int64_t *piece = layout; piece < layout + pieces * (vectors + 1); piece += vectors + 1) {
        const scalar *present[MAX_VECTORS];
        int64_t index[MAX_VECTORS], found = 0;
        for (int64_t i = 0; i < vectors; i++)
            if (piece[i]) present[found] = ADDRESS(const scalar, piece[i]), index[found++] = i;
        for (int64_t start = 0; start < piece[vectors]; start += TILE) {
            const int64_t n = smaller(TILE, piece[vectors] - start);
            for (int64_t i = 0; i < found; i++) {
                const scalar *u = present[i] + start;
                double sums[MAX_VECTORS] = {0};
                int64_t j = i;
                for (; j + AT_ONCE <= found; j += AT_ONCE) add_products(u, present + j, start, n, sums + j, AT_ONCE);
                for (; j < found; j++) add_products(u, present + j, start, n, sums + j, 1);
                for (j = i; j < found; j++) total[index[i] * vectors + index[j]] += sums[j];
            }
        }
    }
    for (int64_t i = 0; i < vectors; i++)
        for (int64_t j = 0; j < i; j++) total[i * vectors + j] = total[j * vectors + i];
}
