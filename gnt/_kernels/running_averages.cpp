// One update of the running averages: the measured values enter the averages, and the last active update is stored.
//
// ``averages`` and ``measured`` contain the mean features of all units, then their utilities; ``numbers[0]`` is the weight of the
// measured values. ``scalar`` is the dtype that the kernel is built for (build.py).

extern "C" void kernel(scalar* averages, const scalar* measured, int64_t* last_active, const double* numbers, int64_t units, int64_t now)
{
    const scalar weight = numbers[0];
    #pragma omp simd
    for (int64_t i = 0; i < 2 * units; i++) averages[i] += weight * (measured[i] - averages[i]);
    for (int64_t i = 0; i < units; i++)
        if (measured[i] != 0) last_active[i] = now;
}
