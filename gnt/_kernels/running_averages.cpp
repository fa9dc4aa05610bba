// Everybody one update older: what was tested enters the running averages, and who was active is noted.
//
// averages and tested are (units) mean features, then (units) utilities; numbers holds the weight of what is new.

extern "C" void kernel(scalar* averages, const scalar* tested, int64_t* last_active, const double* numbers, int64_t units, int64_t now)
{
    const scalar weight = numbers[0];
    #pragma omp simd
    for (int64_t i = 0; i < 2 * units; i++) averages[i] += weight * (tested[i] - averages[i]);
    for (int64_t i = 0; i < units; i++)
        if (tested[i] != 0) last_active[i] = now;
}
