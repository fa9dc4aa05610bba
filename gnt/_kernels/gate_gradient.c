// The gradient of e from those of its gates and of the sparsity penalty: derivative * (sum over the unit's places + weight * penalty's).
//
//   0  address of the layout: FIELDS numbers per place, which are the address of the gradient of its gates (or 0: none), that of the units
//      at its positions, int64 (-1: none), and the number of positions
//   1  number of places
//   2  address of the gradient of the gates of all units, or 0
//   3  address of the gradient of the penalty, or 0
//   4  address of the weights of the penalty
//   5  address of the derivatives
//   6  address of the result
//   7  number of units
#include "kernels.h"

enum { FIELDS = 3 };

DEFINE(gate_gradient) {
    const int64_t *layout = ADDRESS(const int64_t, a[0].i), places = a[1].i, units = a[7].i;
    const scalar *gates = ADDRESS(const scalar, a[2].i), *penalty = ADDRESS(const scalar, a[3].i);
    const scalar *restrict weights = ADDRESS(const scalar, a[4].i), *restrict slopes = ADDRESS(const scalar, a[5].i);
    scalar *restrict result = ADDRESS(scalar, a[6].i);

    for (int64_t i = 0; i < units; i++) result[i] = (penalty ? weights[i] * *penalty : 0) + (gates ? gates[i] : 0);
    for (const int64_t *field = layout; field < layout + FIELDS * places; field += FIELDS) {
        const scalar *restrict gradient = ADDRESS(const scalar, field[0]);
        const int64_t *restrict index = ADDRESS(const int64_t, field[1]);
        for (int64_t i = 0; gradient && i < field[2]; i++)
            if (index[i] >= 0) result[index[i]] += gradient[i];
    }
    for (int64_t i = 0; i < units; i++) result[i] *= slopes[i];
}
