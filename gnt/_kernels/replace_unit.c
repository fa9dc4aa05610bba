// Replaces one unit in the network and in what is kept of it: moves its mean contribution into the consumers' biases, sets its
// outgoing weights to 0, and writes new incoming weights and initial values.
//
//   0  address of the consumers, MOVE numbers each: the addresses of the weights of unit 0, number of outputs, distance from output
//      to output and from unit to unit, and the address of the bias (or 0)
//   1  number of consumers
//   2  address of what is written, WRITE numbers each: the address of the part of unit 0, whether it is an int64 (1) or a scalar (0),
//      number of runs, distance from run to run, length of a run, which is also the distance from unit to unit, the source, and a
//      number that belongs to it. Sources: CONSTANT (the number is a double's bits), FRESH (its address), UPDATES, STEP
//   3  how many of these
//   4  the unit
//   5  its mean feature
//   6  whether the mean contribution is moved
//   7  number of the update
//   8  number of the optimizer's step
#include "kernels.h"

enum { MOVE = 5, WRITE = 7 };
enum { CONSTANT, FRESH, UPDATES, STEP };

static void move(const int64_t *m, int64_t unit, scalar mean, int transfer) {
    scalar *weight = ADDRESS(scalar, m[0]) + unit * m[3], *bias = ADDRESS(scalar, m[4]);
    for (int64_t output = 0; output < m[1]; output++) {
        scalar *each = weight + output * m[2];
        if (bias && transfer) bias[output] += (scalar)0 + *each * mean;
        *each = 0;
    }
}

static double as_double(int64_t bits) {
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

DEFINE(replace_unit) {
    const int64_t *moves = ADDRESS(const int64_t, a[0].i), *writes = ADDRESS(const int64_t, a[2].i), unit = a[4].i;
    for (int64_t i = 0; i < a[1].i; i++) move(moves + i * MOVE, unit, (scalar)a[5].d, a[6].i != 0);
    for (const int64_t *w = writes; w < writes + a[3].i * WRITE; w += WRITE) {
        const int64_t runs = w[2], distance = w[3], length = w[4], source = w[5];
        const scalar *fresh = ADDRESS(const scalar, w[6]);
        const scalar value = source == CONSTANT ? (scalar)as_double(w[6]) : (scalar)0;
        const int64_t count = source == UPDATES ? a[7].i : source == STEP ? a[8].i : 0;
        for (int64_t run = 0; run < runs; run++) {
            const int64_t first = run * distance + unit * length;
            for (int64_t i = 0; i < length; i++) {
                if (w[1])
                    ADDRESS(int64_t, w[0])[first + i] = count;
                else
                    ADDRESS(scalar, w[0])[first + i] = source == FRESH ? fresh[i] : value;
            }
        }
    }
}
