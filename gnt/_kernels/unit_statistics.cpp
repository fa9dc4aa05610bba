// The statistics of an update for simple groups of units, in one call: mean features, mean |h| or mean |h - f^|, the mean |w| of the
// weights that the measure reads, and the utility of each unit.
//
//   groups    GROUP numbers per group: the addresses of its feature h (samples, positions, sites), of its mean features, utilities
//             and magnitudes (written), of its running mean features, of the update numbers at which its units started, and of its
//             outgoing and incoming magnitudes; then number of samples (0: the group takes no part), positions, sites, positions per
//             unit, and by how much the number of its update is less than ``now``
//   weights   WEIGHT numbers per weight: the addresses of w (groups, rows, columns, inner) and of the means of |w| over rows and
//             over columns (or 0); then groups, rows, columns, inner (the size of a convolution's kernel), and whether the means
//             are up to date already
//   numbers   decay rate, log(decay rate)
//   reads     1: features, 2: outgoing weights, 4: incoming weights; 8: use |h - f^| instead of |h|, with f^ the corrected running
//             mean after this batch has entered it
//   now       number of this update; the age of a unit is now - start
//
// All sums are computed in parts of fixed sizes that are added in a fixed order: they do not depend on the number of threads.
// ``scalar`` is the dtype that the kernel is built for (build.py).
#include <vector>

namespace {

constexpr int64_t GROUP = 13, WEIGHT = 8, CHUNK_ROWS = 64, RUN_SAMPLES = 64, MIN_PARALLEL_SIZE = 1 << 15;

template <typename T>
T* at(int64_t address) { return reinterpret_cast<T*>(address); }

// Sums of f(h, position) over samples and sites, for the positions first..last. Samples are summed in runs, so that the rounding
// error grows with the length plus the number of runs, not with their product.
template <typename F>
void sums(const scalar* h, int64_t samples, int64_t positions, int64_t sites, int64_t first, int64_t last, scalar* out, scalar* run, F f)
{
    for (int64_t p = first; p < last; p++) out[p] = 0;
    for (int64_t begin = 0; begin < samples; begin += RUN_SAMPLES) {
        for (int64_t p = first; p < last; p++) run[p] = 0;
        for (int64_t s = begin; s < std::min(begin + RUN_SAMPLES, samples); s++) {
            const scalar* line = h + s * positions * sites;
            if (sites == 1) {
                #pragma omp simd
                for (int64_t p = first; p < last; p++) run[p] += f(line[p], p);
            } else {
                for (int64_t p = first; p < last; p++) {
                    scalar sum = 0;
                    #pragma omp simd reduction(+ : sum)
                    for (int64_t q = 0; q < sites; q++) sum += f(line[p * sites + q], p);
                    run[p] += sum;
                }
            }
        }
        #pragma omp simd
        for (int64_t p = first; p < last; p++) out[p] += run[p];
    }
}

struct Workspace {  // for intermediate results; it grows and is reused
    std::vector<scalar> numbers;

    scalar* reserve(int64_t size) {
        if (int64_t(numbers.size()) < size) numbers.resize(size);
        return numbers.data();
    }
};

void feature_statistics(const int64_t* g, const double* numbers, int64_t now, int64_t reads, int64_t threads, Workspace& workspace)
{
    const scalar* h = at<const scalar>(g[0]);
    scalar *means = at<scalar>(g[1]), *out = at<scalar>(g[3]);
    const scalar* average = at<const scalar>(g[4]);
    const int64_t* born = at<const int64_t>(g[5]);
    const int64_t samples = g[8], positions = g[9], sites = g[10], block = g[11], units = positions / block;
    const int64_t width = std::max<int64_t>(1, (sites == 1 ? 512 : 8) / block), pieces = (units + width - 1) / width;
    const scalar count = samples * sites, weight = 1 - numbers[0];
    scalar *run = workspace.reserve(2 * positions), *center = run + positions;

    #pragma omp parallel for schedule(static) num_threads(threads) if (samples * positions * sites > MIN_PARALLEL_SIZE && threads > 1)
    for (int64_t piece = 0; piece < pieces; piece++) {
        const int64_t from = piece * width, to = std::min(from + width, units), first = from * block, last = to * block;
        sums(h, samples, positions, sites, first, last, out, run, [](scalar x, int64_t) { return x; });
        for (int64_t unit = from; unit < to; unit++) {
            scalar mean = 0;
            for (int64_t p = unit * block; p < (unit + 1) * block; p++) mean += out[p] / count;
            means[unit] = mean / block;
        }
        if (!(reads & 1)) continue;
        if (reads & 8) {
            for (int64_t unit = from; unit < to; unit++) {
                const scalar age = now - g[12] - born[unit];
                const scalar correction = numbers[0] > 0 ? -std::expm1(age * scalar(numbers[1])) : std::min(age, scalar(1));
                const scalar next = average[unit] + weight * (means[unit] - average[unit]);
                for (int64_t p = unit * block; p < (unit + 1) * block; p++)
                    center[p] = next / std::max(correction, std::numeric_limits<scalar>::min());
            }
            sums(h, samples, positions, sites, first, last, out, run, [=](scalar x, int64_t p) { return std::abs(x - center[p]); });
        } else {
            sums(h, samples, positions, sites, first, last, out, run, [](scalar x, int64_t) { return std::abs(x); });
        }
        for (int64_t p = first; p < last; p++) out[p] /= count;
    }
}

void weight_means(const int64_t* field, int64_t threads, Workspace& workspace)
{
    const scalar* w = at<const scalar>(field[0]);
    scalar *row_means = at<scalar>(field[1]), *column_means = at<scalar>(field[2]);
    const int64_t groups = field[3], rows = field[4], columns = field[5], inner = field[6];
    const int64_t chunks = (rows + CHUNK_ROWS - 1) / CHUNK_ROWS;
    scalar* partial = column_means ? workspace.reserve(groups * chunks * columns) : nullptr;

    #pragma omp parallel for schedule(static) num_threads(threads) if (groups * rows * columns * inner > MIN_PARALLEL_SIZE && threads > 1)
    for (int64_t item = 0; item < groups * chunks; item++) {
        const int64_t group = item / chunks, first = (item % chunks) * CHUNK_ROWS, last = std::min(first + CHUNK_ROWS, rows);
        scalar* column_sums = column_means ? partial + item * columns : nullptr;
        if (column_means) std::fill_n(column_sums, columns, scalar(0));
        for (int64_t row = first; row < last; row++) {
            const scalar* line = w + (group * rows + row) * columns * inner;
            scalar total = 0;
            if (!column_means) {
                #pragma omp simd reduction(+ : total)
                for (int64_t i = 0; i < columns * inner; i++) total += std::abs(line[i]);
            } else if (inner == 1) {
                #pragma omp simd reduction(+ : total)
                for (int64_t i = 0; i < columns; i++) {
                    const scalar magnitude = std::abs(line[i]);
                    total += magnitude;
                    column_sums[i] += magnitude;
                }
            } else {
                for (int64_t i = 0; i < columns; i++) {
                    scalar sum = 0;
                    #pragma omp simd reduction(+ : sum)
                    for (int64_t j = 0; j < inner; j++) sum += std::abs(line[i * inner + j]);
                    column_sums[i] += sum;
                    total += sum;
                }
            }
            if (row_means) row_means[group * rows + row] = total / (columns * inner);
        }
    }
    for (int64_t group = 0; column_means && group < groups; group++) {
        scalar* means = column_means + group * columns;
        for (int64_t chunk = 0; chunk < chunks; chunk++) {
            const scalar* column_sums = partial + (group * chunks + chunk) * columns;
            for (int64_t i = 0; i < columns; i++) means[i] = chunk ? means[i] + column_sums[i] : column_sums[i];
        }
        for (int64_t i = 0; i < columns; i++) means[i] /= rows * inner;
    }
}

// The utility: the mean over a unit's positions of the product of signals, divided by the incoming magnitude.
void compute_utilities(const int64_t* g, int64_t reads)
{
    scalar* utilities = at<scalar>(g[2]);
    const scalar *feature = at<const scalar>(g[3]), *outgoing = at<const scalar>(g[6]), *incoming = at<const scalar>(g[7]);
    const int64_t block = g[11], units = g[9] / block;
    const scalar least = std::numeric_limits<scalar>::epsilon();
    for (int64_t unit = 0; unit < units; unit++) {
        scalar utility = reads & 3 ? 0 : 1;
        if (reads & 3) {
            for (int64_t p = unit * block; p < (unit + 1) * block; p++)
                utility += (reads & 1 ? feature[p] : scalar(1)) * (reads & 2 ? outgoing[p] : scalar(1));
            utility /= block;
        }
        if (reads & 4) utility /= incoming[unit] < least ? least : incoming[unit];
        utilities[unit] = utility;
    }
}

}  // namespace

extern "C" void kernel(const int64_t* groups, const int64_t* weights, const double* numbers, int64_t num_groups, int64_t num_weights, int64_t reads, int64_t now, int64_t threads)
{
    static thread_local Workspace workspace;
    for (int64_t i = 0; i < num_groups; i++)
        if (groups[i * GROUP + 8]) feature_statistics(groups + i * GROUP, numbers, now, reads, threads, workspace);
    for (int64_t i = 0; i < num_weights; i++)
        if (!weights[i * WEIGHT + 7]) weight_means(weights + i * WEIGHT, threads, workspace);
    for (int64_t i = 0; i < num_groups; i++)
        if (groups[i * GROUP + 8]) compute_utilities(groups + i * GROUP, reads);
}
