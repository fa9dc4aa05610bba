// One update of the running averages: the measured values enter the averages, and the last active update is stored.
//
// ``averages`` and ``measured`` contain the mean features of all units, then their utilities; ``numbers[0]`` is the weight of the
// measured values. ``segments`` are the groups that take part in the update: first unit, number of units, and number of the update, by
// which a group counts. ``scalar`` is the dtype that the kernel is built for (build.py).

extern "C" void kernel(scalar* averages, const scalar* measured, int64_t* last_active, const double* numbers, const int64_t* segments, int64_t units, int64_t num_segments)
{
    const scalar weight = numbers[0];
    #pragma omp simd
    for (int64_t i = 0; i < 2 * units; i++) averages[i] += weight * (measured[i] - averages[i]);
    for (const int64_t* segment = segments; segment < segments + 3 * num_segments; segment += 3)
        for (int64_t i = segment[0]; i < segment[0] + segment[1]; i++)
            if (measured[i] != 0) last_active[i] = segment[2];
}
