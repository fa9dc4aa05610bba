// One update of units that is like the one before, in one call: unit_statistics, then finite for what it has measured and, if all of
// that is finite, running_averages.
//
//   0  address of the arguments of unit_statistics, of which the last two are written here
//   1  address of the arguments of finite
//   2  address of the arguments of running_averages, whose only segment is that of all units; the number of the update is written
//   3  number of this update
//   4  number of threads
#include "kernels.h"

enum { NOW = 7, THREADS = 8 };  // arguments of unit_statistics

void OF_TYPE(unit_statistics, scalar)(const argument *);
void OF_TYPE(finite, scalar)(const argument *);
void OF_TYPE(running_averages, scalar)(const argument *);

DEFINE(unit_update) {
    argument *statistics = ADDRESS(argument, a[0].i);
    const argument *finite = ADDRESS(const argument, a[1].i), *averages = ADDRESS(const argument, a[2].i);
    statistics[NOW] = a[3], statistics[THREADS] = a[4];
    OF_TYPE(unit_statistics, scalar)(statistics);
    OF_TYPE(finite, scalar)(finite);
    if (!*ADDRESS(const int64_t, finite[1].i)) return;
    ADDRESS(int64_t, averages[4].i)[2] = a[3].i;
    OF_TYPE(running_averages, scalar)(averages);
}
