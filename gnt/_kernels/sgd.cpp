// One step of plain gradient descent on several parameters and, in the same pass over memory, the means of |p| over the rows and
// columns of those that are asked for.
//
//   layout    FIELDS numbers per parameter: its address, rows, columns, and the addresses for the means of its rows and columns
//             (or 0)
//   grads     the address of each gradient
//   options   lr, weight decay
//   flags     4: maximize
//
// Rows are processed in chunks of a fixed height, so that the sums do not depend on the number of threads. ``scalar`` is the dtype
// that the kernel is built for (build.py).

#include <vector>

static const int64_t FIELDS = 5, CHUNK_ROWS = 64, MIN_PARALLEL_SIZE = 1 << 15;

extern "C" void kernel(const int64_t* layout, const int64_t* grads, const double* options, int64_t parameters, int64_t flags, int64_t threads)
{
    const scalar rate = -options[0], decay = options[1], sign = flags & 4 ? -1 : 1;
    static thread_local std::vector<scalar> partial_sums;

    for (int64_t i = 0; i < parameters; i++) {
        const int64_t* field = layout + i * FIELDS;
        scalar* p = reinterpret_cast<scalar*>(field[0]);
        const scalar* g = reinterpret_cast<const scalar*>(grads[i]);
        const int64_t rows = field[1], columns = field[2], chunks = (rows + CHUNK_ROWS - 1) / CHUNK_ROWS;
        scalar *row_means = reinterpret_cast<scalar*>(field[3]), *column_means = reinterpret_cast<scalar*>(field[4]);
        if (column_means) partial_sums.assign(chunks * columns, scalar(0));
        scalar* partial = partial_sums.data();

        #pragma omp parallel for schedule(static) num_threads(threads) if (rows * columns > MIN_PARALLEL_SIZE && threads > 1)
        for (int64_t chunk = 0; chunk < chunks; chunk++) {
            scalar* sums = partial + chunk * columns;
            for (int64_t row = chunk * CHUNK_ROWS; row < std::min((chunk + 1) * CHUNK_ROWS, rows); row++) {
                scalar* line = p + row * columns;
                const scalar* grad = g + row * columns;
                scalar total = 0;
                if (column_means) {
                    #pragma omp simd reduction(+ : total)
                    for (int64_t j = 0; j < columns; j++) {
                        const scalar next = std::fma(rate, std::fma(decay, line[j], sign * grad[j]), line[j]);
                        line[j] = next;
                        total += std::abs(next);
                        sums[j] += std::abs(next);
                    }
                } else {
                    #pragma omp simd reduction(+ : total)
                    for (int64_t j = 0; j < columns; j++) {
                        const scalar next = std::fma(rate, std::fma(decay, line[j], sign * grad[j]), line[j]);
                        line[j] = next;
                        total += std::abs(next);
                    }
                }
                if (row_means) row_means[row] = total / columns;
            }
        }
        for (int64_t chunk = 0; column_means && chunk < chunks; chunk++) {
            const scalar* sums = partial + chunk * columns;
            for (int64_t j = 0; j < columns; j++) column_means[j] = chunk ? column_means[j] + sums[j] : sums[j];
        }
        for (int64_t j = 0; column_means && j < columns; j++) column_means[j] /= rows;
    }
}
