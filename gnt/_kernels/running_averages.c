// One update of the running averages: the measured values enter the averages, and the last active update is stored.
//
//   0  address of the averages: the mean features of all units, then their utilities
//   1  address of the measured values, in the same order
//   2  address of the number of the last active update of each unit
//   3  address of the weight of the measured values, a double
//   4  address of the segments, the groups that take part in the update: first unit, number of units, and number of the update, by
//      which a group counts
//   5  number of units
//   6  number of segments
#include "kernels.h"

DEFINE(running_averages) {
    scalar *restrict averages = ADDRESS(scalar, a[0].i);
    const scalar *restrict measured = ADDRESS(const scalar, a[1].i);
    int64_t *restrict last_active = ADDRESS(int64_t, a[2].i);
    const scalar weight = (scalar)*ADDRESS(const double, a[3].i);
    const int64_t *segments = ADDRESS(const int64_t, a[4].i), units = a[5].i, num_segments = a[6].i;
#pragma omp simd
    for (int64_t i = 0; i < 2 * units; i++) averages[i] += weight * (measured[i] - averages[i]);
    for (const int64_t *segment = segments; segment < segments + 3 * num_segments; segment += 3)
        for (int64_t i = segment[0]; i < segment[0] + segment[1]; i++)
            if (measured[i] != 0) last_active[i] = segment[2];
}
