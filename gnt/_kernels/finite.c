// Writes 1 if all numbers are finite, else 0.
//
//   0  address of the numbers
//   1  address of the result, an int64
//   2  how many numbers
#include "kernels.h"

DEFINE(finite) {
    const scalar *numbers = ADDRESS(const scalar, a[0].i);
    const int64_t count = a[2].i;
    int64_t nonfinite = 0;
#pragma omp simd reduction(+ : nonfinite)
    for (int64_t i = 0; i < count; i++) nonfinite += !(fabs(numbers[i]) <= LARGEST);
    *ADDRESS(int64_t, a[1].i) = nonfinite == 0;
}
