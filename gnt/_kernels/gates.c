// The gates a = sigmoid(s e) of all units, their derivatives, and the sparsity penalty.
//
//   0  address of the layout: FIELDS numbers per place, which are the address of its gates, that of the units at its positions, int64
//      (-1: none, the gate is 1), and the number of positions
//   1  number of places
//   2  address of e, which is clamped
//   3  address of the gates of all units
//   4  address of their derivatives
//   5  number of units
//   6  address of the weights of the penalty
//   7  address of the penalty: constant + sum of weight * gate
//   8  the constant
//   9  the largest |e|
//  10  s
//  11  the largest s; 0: the derivative is that of sigmoid(s e). Otherwise it is the largest s times that of sigmoid(e), times
//      (cosh(clip) + 1) / (cosh(s e) + 1) beyond |s e| = clip
//  12  clip
#include "kernels.h"

enum { FIELDS = 3 };

INLINED scalar sigmoid(scalar x) { return 1 / (1 + exp(-x)); }

DEFINE(gates) {
    const int64_t *layout = ADDRESS(const int64_t, a[0].i), places = a[1].i, units = a[5].i;
    scalar *restrict e = ADDRESS(scalar, a[2].i), *restrict gates = ADDRESS(scalar, a[3].i), *restrict slopes = ADDRESS(scalar, a[4].i);
    const scalar *restrict weights = ADDRESS(const scalar, a[6].i);
    const scalar bound = (scalar)a[9].d, s = (scalar)a[10].d, s_max = (scalar)a[11].d, clip = (scalar)a[12].d;
    scalar penalty = (scalar)a[8].d;

    for (int64_t i = 0; i < units; i++) {
        e[i] = e[i] < -bound ? -bound : e[i] > bound ? bound : e[i];
        const scalar scaled = e[i] * s, magnitude = fabs(scaled);
        gates[i] = sigmoid(scaled);
        penalty += weights[i] * gates[i];
        if (s_max <= 0) {
            slopes[i] = s * (gates[i] * (1 - gates[i]));
            continue;
        }
        const scalar small = sigmoid(-fabs(e[i]));  // 1 - small does not cancel
        scalar slope = s_max * (small - small * small);
        if (magnitude > clip) {  // cosh(z) + 1 = exp(z) (1 + exp(-z))^2 / 2
            const scalar ratio = (1 + exp(-clip)) / (1 + exp(-magnitude));
            slope *= exp(clip - magnitude) * (ratio * ratio);
        }
        slopes[i] = slope;
    }
    *ADDRESS(scalar, a[7].i) = penalty;
    for (const int64_t *field = layout; field < layout + FIELDS * places; field += FIELDS) {
        scalar *restrict out = ADDRESS(scalar, field[0]);
        const int64_t *restrict index = ADDRESS(const int64_t, field[1]);
        for (int64_t i = 0; i < field[2]; i++) out[i] = index[i] < 0 ? 1 : gates[index[i]];
    }
}
