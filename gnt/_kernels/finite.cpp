// Whether all numbers are finite: 1 or 0.

extern "C" void kernel(const scalar* numbers, int64_t* all, int64_t count)
{
    int64_t broken = 0;
    #pragma omp simd reduction(+ : broken)
    for (int64_t i = 0; i < count; i++) broken += !(std::abs(numbers[i]) <= std::numeric_limits<scalar>::max());
    *all = broken == 0;
}
