// One step of Adam on several parameters, in one pass over memory: parameter, gradient and moments are read once and written once.
// Every row and column of a parameter can have its own step count; see optim/_adam/step_counts.py.
//
//   layout    FIELDS numbers per parameter: the addresses of the parameter, the moments m and v, the maximum of v (or 0), row_start
//             and column_start (or 0); number of rows, elements per row, elements per column in a row, columns of all groups, rows
//             per group; for a matrix, the addresses for the means of |p| over each row and each column (or 0)
//   grads     the address of each gradient
//   counts    the number of steps of each parameter before this one; incremented here
//   options   lr, b1, b2, eps, weight decay
//   bias1, root2   1 - b1^k and sqrt(1 - b2^k) for k = 0, 1, ..., length1 - 1 and length2 - 1; counts beyond are computed
//   flags     1: decoupled weight decay, 2: amsgrad, 4: maximize
//
// ``scalar`` is the dtype that the kernel is built for (build.py).
#include <cstring>
#include <vector>


// Explicit vector instructions: the compiler must maintain errno, so it does not vectorise square roots and fused multiply-adds.
#if defined(__AVX512F__)
#include <immintrin.h>
using floats = __m512;
using doubles = __m512d;
#define INTRINSIC(name) _mm512_##name
#elif defined(__AVX__) && defined(__FMA__)
#include <immintrin.h>
using floats = __m256;
using doubles = __m256d;
#define INTRINSIC(name) _mm256_##name
#endif
#if defined(INTRINSIC)
static inline floats root_of(floats x) { return INTRINSIC(sqrt_ps)(x); }
static inline doubles root_of(doubles x) { return INTRINSIC(sqrt_pd)(x); }
static inline floats multiply_add(floats x, floats y, floats z) { return INTRINSIC(fmadd_ps)(x, y, z); }
static inline doubles multiply_add(doubles x, doubles y, doubles z) { return INTRINSIC(fmadd_pd)(x, y, z); }
#elif defined(__aarch64__)
#include <arm_neon.h>
using floats = float32x4_t;
using doubles = float64x2_t;
static inline floats root_of(floats x) { return vsqrtq_f32(x); }
static inline doubles root_of(doubles x) { return vsqrtq_f64(x); }
static inline floats multiply_add(floats x, floats y, floats z) { return vfmaq_f32(z, x, y); }
static inline doubles multiply_add(doubles x, doubles y, doubles z) { return vfmaq_f64(z, x, y); }
#else
using floats = float;
using doubles = double;
static inline scalar root_of(scalar x) { return std::sqrt(x); }
static inline scalar multiply_add(scalar x, scalar y, scalar z) { return x * y + z; }
#endif

namespace {

constexpr int64_t FIELDS = 13, LANES = sizeof(scalars) / sizeof(scalar);
constexpr int64_t CHUNK_ROWS = 64, BLOCK = 1 << 14, MIN_PARALLEL_SIZE = 1 << 15;

struct Correction {  // 1 - b^k or its square root, for one decay rate b; from the table if it is long enough (0: no table)
    const double* table;
    int64_t length;
    double beta;
    bool root;
    // from this count on b^k is below e^-37.5 < 2^-54, so 1 - b^k is 1
    double saturated = beta > 0 ? -37.5 / std::log(beta) : 0;

    double operator()(int64_t k) const {
        k = std::max<int64_t>(k, 1);  // a count below 1 is an error of the caller; avoid division by zero
        if (k < length) return table[k];
        if (double(k) >= saturated) return 1.0;
        double value = 1.0 - std::pow(beta, double(k));
        return root ? std::pow(value, 0.5) : value;  // like Python's ** 0.5, which can differ from sqrt in the last bit
    }
};

struct Step {  // the constants of a step, in the dtype of the parameters
    scalar keep, decay, sign, lerp, take, stay, give, eps, least;
    bool lerp_from_grad;
};

inline scalars load(const scalar* x) {
    scalars lanes;
    std::memcpy(&lanes, x, sizeof(lanes));
    return lanes;
}

inline void store(scalar* x, scalars lanes) { std::memcpy(x, &lanes, sizeof(lanes)); }

inline scalar lane_of(scalars x, int64_t lane) {
    scalar lanes[LANES];
    std::memcpy(lanes, &x, sizeof(lanes));
    return lanes[lane];
}

inline scalars all(scalar x) { return scalars{} + x; }

struct Corrections {  // lr / (1 - b1^k) and 1 / sqrt(1 - b2^k) of a row; if columns have counts, of each element's
    scalar size, root;
    const scalar *sizes, *roots;
};

// Updates one vector, in torch's order of operations; returns the new parameters.
template <bool COLUMNS, bool DECAYED, bool AMSGRAD>
inline scalars run_lanes(scalar* p, const scalar* g, scalar* m, scalar* v, scalar* u, scalars size, scalars root,
                      const scalar* sizes, const scalar* roots, const Step& s) {
    const scalars zero{}, least = all(s.least), before = load(m), theta = load(p);
    scalars grad = load(g) * s.sign;
    if (DECAYED) grad = multiply_add(all(s.decay), theta, grad);
    scalars first = multiply_add(all(s.lerp), grad - before, s.lerp_from_grad ? grad : before);
    scalars second = multiply_add(s.give * grad, grad, load(v) * s.stay);
    first = first < least ? (first > -least ? zero : first) : first;
    second = second < least ? zero : second;
    store(m, first);
    store(v, second);
    if (AMSGRAD) {
        const scalars largest = load(u);
        second = second < largest ? largest : second;
        store(u, second);
    }
    if (COLUMNS) {
        const scalars column_size = load(sizes), column_root = load(roots);
        size = size < column_size ? column_size : size;
        root = root < column_root ? column_root : root;
    }
    const scalars next = theta * s.keep - (size * first) / (root_of(second) * root + s.eps);
    store(p, next);
    return next;
}

// Updates n elements of a row; returns the sum of |p|, and adds |p| to ``sums`` unless it is null.
template <bool COLUMNS, bool DECAYED, bool AMSGRAD>
scalar run(scalar* p, const scalar* g, scalar* m, scalar* v, scalar* u, int64_t n, const Corrections f, const Step s,
           scalar* sums) {
    const scalars size = all(f.size), root = all(f.root);
    scalars totals{};
    scalar total = 0;
    int64_t k = 0;
    for (; k + LANES <= n; k += LANES) {
        const scalars next =
            run_lanes<COLUMNS, DECAYED, AMSGRAD>(p + k, g + k, m + k, v + k, AMSGRAD ? u + k : u, size, root,
                                                 COLUMNS ? f.sizes + k : nullptr, COLUMNS ? f.roots + k : nullptr, s);
        const scalars magnitude = next < scalars{} ? -next : next;
        totals += magnitude;
        if (sums) store(sums + k, load(sums + k) + magnitude);
    }
    for (int64_t lane = 0; lane < LANES; ++lane) total += lane_of(totals, lane);
    if (k == n) return total;
    const int64_t bytes = (n - k) * sizeof(scalar);
    alignas(64) scalar rest[7][LANES] = {};
    std::memcpy(rest[0], p + k, bytes);
    std::memcpy(rest[1], g + k, bytes);
    std::memcpy(rest[2], m + k, bytes);
    std::memcpy(rest[3], v + k, bytes);
    if (AMSGRAD) std::memcpy(rest[4], u + k, bytes);
    if (COLUMNS) std::memcpy(rest[5], f.sizes + k, bytes);
    if (COLUMNS) std::memcpy(rest[6], f.roots + k, bytes);
    run_lanes<COLUMNS, DECAYED, AMSGRAD>(rest[0], rest[1], rest[2], rest[3], rest[4], size, root, rest[5], rest[6], s);
    std::memcpy(p + k, rest[0], bytes);
    std::memcpy(m + k, rest[2], bytes);
    std::memcpy(v + k, rest[3], bytes);
    if (AMSGRAD) std::memcpy(u + k, rest[4], bytes);
    for (; k < n; ++k) {
        total += std::abs(p[k]);
        if (sums) sums[k] += std::abs(p[k]);
    }
    return total;
}

using Run = scalar (*)(scalar*, const scalar*, scalar*, scalar*, scalar*, int64_t, const Corrections, const Step, scalar*);

template <bool COLUMNS>
Run runner(bool decayed, bool amsgrad) {
    if (decayed) return amsgrad ? run<COLUMNS, true, true> : run<COLUMNS, true, false>;
    return amsgrad ? run<COLUMNS, false, true> : run<COLUMNS, false, false>;
}

}  // namespace

extern "C" void kernel(const int64_t* layout, const int64_t* grads, double* counts, const double* options,
                       const double* bias1, const double* root2, int64_t length1, int64_t length2, int64_t parameters,
                       int64_t flags, int64_t threads) {
    const double lr = options[0], beta1 = options[1], beta2 = options[2], eps = options[3], decay = options[4];
    const bool decoupled = flags & 1, amsgrad = flags & 2, decayed = decay != 0 && !decoupled;
    const double weight = 1.0 - beta1;
    Step s;
    s.keep = decoupled && decay != 0 ? scalar(1.0 - lr * decay) : scalar(1);
    s.decay = scalar(decay);
    s.sign = flags & 4 ? scalar(-1) : scalar(1);
    s.lerp_from_grad = !(scalar(weight) < scalar(0.5));
    s.lerp = s.lerp_from_grad ? scalar(weight) - scalar(1) : scalar(weight);
    s.stay = scalar(beta2);
    s.give = scalar(1.0 - beta2);
    s.eps = scalar(eps);
    // subnormal moments are slow to compute with; with eps of this size, setting them to zero does not change the step
    s.least = eps >= 1e-10 ? std::numeric_limits<scalar>::min() : scalar(0);
    const Correction first{bias1, length1, beta1, false}, second{root2, length2, beta2, true};
    static thread_local std::vector<scalar> sizes, roots, partial_sums;

    for (int64_t i = 0; i < parameters; ++i) {
        const int64_t* field = layout + i * FIELDS;
        scalar *p = reinterpret_cast<scalar*>(field[0]), *m = reinterpret_cast<scalar*>(field[1]);
        scalar *v = reinterpret_cast<scalar*>(field[2]), *u = reinterpret_cast<scalar*>(field[3]);
        const int64_t *row_start = reinterpret_cast<const int64_t*>(field[4]);
        const int64_t *column_start = reinterpret_cast<const int64_t*>(field[5]);
        int64_t rows = field[6], elements = field[7], inner = field[8], columns = field[9], per_group = field[10];
        const scalar* g = reinterpret_cast<const scalar*>(grads[i]);
        const int64_t now = int64_t(counts[i] += 1.0), total = rows * elements;
        auto size_at = [&](int64_t start) { return scalar(lr / first(now - start)); };
        // the smaller count of row and column gives the larger factors
        auto root_at = [&](int64_t start) { return scalar(1.0 / second(now - start)); };
        const scalar unreset_size = size_at(0), unreset_root = root_at(0);
        if (total == 0) continue;

        scalar *column_size = nullptr, *column_root = nullptr;
        if (column_start) {
            sizes.resize(columns * inner);
            roots.resize(columns * inner);
            column_size = sizes.data();
            column_root = roots.data();
            for (int64_t c = 0; c < columns; ++c) {
                const scalar size = column_start[c] ? size_at(column_start[c]) : unreset_size;
                const scalar root = column_start[c] ? root_at(column_start[c]) : unreset_root;
                std::fill_n(column_size + c * inner, inner, size);
                std::fill_n(column_root + c * inner, inner, root);
            }
        }
        scalar *row_means = reinterpret_cast<scalar*>(field[11]), *column_means = reinterpret_cast<scalar*>(field[12]);
        if (!row_start && !column_start && !row_means && !column_means)
            elements = BLOCK, rows = (total + BLOCK - 1) / BLOCK;
        // column sums are computed for CHUNK_ROWS rows at a time and added in a fixed order, so that they do not depend on the
        // number of threads
        const int64_t height = column_means ? CHUNK_ROWS : 1, chunks = (rows + height - 1) / height;
        if (column_means) partial_sums.assign(chunks * elements, scalar(0));
        scalar* partial = column_means ? partial_sums.data() : nullptr;
        const Run go = column_start ? runner<true>(decayed, amsgrad) : runner<false>(decayed, amsgrad);
#pragma omp parallel for schedule(static) num_threads(threads) if (total > MIN_PARALLEL_SIZE && threads > 1)
        for (int64_t chunk = 0; chunk < chunks; ++chunk)
            for (int64_t r = chunk * height; r < std::min((chunk + 1) * height, rows); ++r) {
                const int64_t at = r * elements, n = std::min(elements, total - at);
                const int64_t start = row_start ? row_start[r] : 0, beside = column_start ? r / per_group * elements : 0;
                const Corrections f{start ? size_at(start) : unreset_size, start ? root_at(start) : unreset_root,
                                column_size + beside, column_root + beside};
                scalar* sums = column_means ? partial + chunk * elements : nullptr;
                const scalar sum = go(p + at, g + at, m + at, v + at, u + (amsgrad ? at : 0), n, f, s, sums);
                if (row_means) row_means[r] = sum / elements;
            }
        if (!column_means) continue;
        std::copy_n(partial, elements, column_means);
        for (int64_t chunk = 1; chunk < chunks; ++chunk)
            for (int64_t c = 0; c < elements; ++c) column_means[c] += partial[chunk * elements + c];
        for (int64_t c = 0; c < elements; ++c) column_means[c] /= rows;
    }
}
