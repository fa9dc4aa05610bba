// Writes 1 if all numbers are finite, else 0.

extern "C" void kernel(const scalar* numbers, int64_t* all, int64_t count)
{
    int64_t nonfinite = 0;
    #pragma omp simd reduction(+ : nonfinite)
    for (int64_t i = 0; i < count; i++) nonfinite += !(std::abs(numbers[i]) <= std::numeric_limits<scalar>::max());
    *all = nonfinite == 0;
}
