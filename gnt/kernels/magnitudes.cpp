// Means of |w| over the rows and over the columns of each of `groups` matrices, in one pass over them.
//
// w is (groups, rows, columns, inner), contiguous; inner is a convolution's kernel. of_rows is (groups, rows), of_columns
// (groups, columns); either is left out where wants_rows or wants_columns is 0.
//
// Rows are taken in chunks of a fixed height, whose sums over columns are added up in order at the end: what comes out does
// not depend on the number of threads.

#include <vector>

static const int64_t HEIGHT = 64;

extern "C" void kernel(const scalar* w, scalar* of_rows, scalar* of_columns, int64_t groups, int64_t rows, int64_t columns, int64_t inner, int64_t wants_rows, int64_t wants_columns)
{
    static thread_local std::vector<scalar> partial_sums;
    const int64_t chunks = (rows + HEIGHT - 1) / HEIGHT;
    partial_sums.assign(wants_columns ? groups * chunks * columns : 0, scalar(0));
    scalar* partial = partial_sums.data();

    #pragma omp parallel for if (groups * rows * columns * inner > (1 << 15))
    for (int64_t item = 0; item < groups * chunks; item++) {
        const int64_t group = item / chunks, first = (item % chunks) * HEIGHT, last = std::min(first + HEIGHT, rows);
        scalar* sums = partial + item * columns;
        for (int64_t row = first; row < last; row++) {
            const scalar* line = w + (group * rows + row) * columns * inner;
            scalar total = 0;
            if (inner == 1 && wants_rows && wants_columns) {
                #pragma omp simd reduction(+ : total)
                for (int64_t i = 0; i < columns; i++) {
                    const scalar magnitude = std::abs(line[i]);
                    total += magnitude;
                    sums[i] += magnitude;
                }
            } else if (inner == 1 && wants_columns) {
                #pragma omp simd
                for (int64_t i = 0; i < columns; i++) sums[i] += std::abs(line[i]);
            } else if (!wants_columns) {
                #pragma omp simd reduction(+ : total)
                for (int64_t i = 0; i < columns * inner; i++) total += std::abs(line[i]);
            } else {
                for (int64_t i = 0; i < columns; i++) {
                    scalar sum = 0;
                    #pragma omp simd reduction(+ : sum)
                    for (int64_t j = 0; j < inner; j++) sum += std::abs(line[i * inner + j]);
                    sums[i] += sum;
                    total += sum;
                }
            }
            if (wants_rows) of_rows[group * rows + row] = total / (columns * inner);
        }
    }
    if (!wants_columns) return;
    for (int64_t group = 0; group < groups; group++) {
        scalar* means = of_columns + group * columns;
        for (int64_t i = 0; i < columns; i++) means[i] = partial[group * chunks * columns + i];
        for (int64_t chunk = 1; chunk < chunks; chunk++) {
            const scalar* sums = partial + (group * chunks + chunk) * columns;
            #pragma omp simd
            for (int64_t i = 0; i < columns; i++) means[i] += sums[i];
        }
        #pragma omp simd
        for (int64_t i = 0; i < columns; i++) means[i] /= rows * inner;
    }
}
