// What one batch says of the units that a consumer reads: mean feature, and mean |h| or mean |h - f^|.
//
// h is (members, samples, positions, sites), contiguous; a unit owns `block` neighbouring positions. Out come the mean feature
// of each unit, and for each position the mean magnitude, or with `centred` the mean deviation from f^, the corrected running
// mean as it will be once this batch is averaged in: (decay * average + (1 - decay) * mean) / (1 - decay^age), with `average`
// and `born` those of the units, and age = now - born.
//
// numbers: decay, log(decay). scratch: two numbers a position.

// Sums over samples and sites of f(h, centre) for the positions first..last of a member. Samples are summed in runs, so that
// rounding grows with the length of a run and with the number of runs, not with their product.
template <typename F>
static void sums(const scalar* h, int64_t samples, int64_t positions, int64_t sites, int64_t first, int64_t last, scalar* out, scalar* run, F f)
{
    const int64_t RUN = 64;
    for (int64_t p = first; p < last; p++) out[p] = 0;
    for (int64_t begin = 0; begin < samples; begin += RUN) {
        const int64_t end = std::min(begin + RUN, samples);
        for (int64_t p = first; p < last; p++) run[p] = 0;
        for (int64_t s = begin; s < end; s++) {
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

extern "C" void kernel(const scalar* h, scalar* means, scalar* magnitudes, const scalar* average, const int64_t* born, const double* numbers, scalar* scratch, int64_t now, int64_t members, int64_t samples, int64_t positions, int64_t sites, int64_t block, int64_t centred)
{
    const int64_t units = positions / block, width = std::max<int64_t>(1, (sites == 1 ? 512 : 8) / block);
    const int64_t pieces = (units + width - 1) / width;
    const scalar count = samples * sites;

    #pragma omp parallel for if (members * samples * positions * sites > (1 << 15))
    for (int64_t item = 0; item < members * pieces; item++) {
        const int64_t member = item / pieces, from = (item % pieces) * width, to = std::min(from + width, units);
        const int64_t first = from * block, last = to * block;
        const scalar* part = h + member * samples * positions * sites;
        scalar* run = scratch + member * positions;
        scalar* centre = scratch + (members + member) * positions;
        scalar* out = magnitudes + member * positions;

        sums(part, samples, positions, sites, first, last, out, run, [](scalar x, int64_t) { return x; });
        for (int64_t unit = from; unit < to; unit++) {
            scalar mean = 0;
            for (int64_t p = unit * block; p < (unit + 1) * block; p++) mean += out[p] / count;
            means[member * units + unit] = mean / block;
        }
        if (centred) {
            for (int64_t unit = from; unit < to; unit++) {
                const int64_t i = member * units + unit, age = now - born[i];
                const scalar gathered = numbers[0] > 0 ? -std::expm1(scalar(age) * scalar(numbers[1])) : scalar(age > 0);
                const scalar weight = 1 - numbers[0];
                const scalar next = (average[i] + weight * (means[i] - average[i])) / std::max(gathered, std::numeric_limits<scalar>::min());
                for (int64_t p = unit * block; p < (unit + 1) * block; p++) centre[p] = next;
            }
            sums(part, samples, positions, sites, first, last, out, run, [=](scalar x, int64_t p) { return std::abs(x - centre[p]); });
        } else {
            sums(part, samples, positions, sites, first, last, out, run, [](scalar x, int64_t) { return std::abs(x); });
        }
        for (int64_t p = first; p < last; p++) out[p] /= count;
    }
}
