// Standard normal numbers by their position: Philox4x32-10 (Salmon et al., SC 2011) and the transform of Box and Muller.
//
// The numbers of a tile are those of TILE / 4 counters; the counter with number ``lane`` gives the positions lane, lane + QUARTER,
// lane + 2 QUARTER and lane + 3 QUARTER. Float has functions of its own, which the compiler turns into vector instructions.
#ifndef RANDOM_NORMAL
#define RANDOM_NORMAL
#include "kernels.h"

enum { TILE = 1024, QUARTER = TILE / 4, ROUNDS = 10 };

static inline float float_of_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

static inline uint32_t bits_of_float(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    return bits;
}

// exp(x), with polynomials of Cephes (Moshier)
INLINED float vector_exp(float x) {
    x = x > 88 ? 88 : x < -87 ? -87 : x;
    const float n = rintf(x * 1.44269504f), r = x - n * 0.693359375f + n * 2.12194440e-4f;
    const float p = ((((1.9875691500e-4f * r + 1.3981999507e-3f) * r + 8.3334519073e-3f) * r + 4.1665795894e-2f) * r + 1.6666665459e-1f) * r;
    return ((p + 5.0000001201e-1f) * (r * r) + r + 1) * float_of_bits((uint32_t)((int32_t)n + 127) << 23);
}

// log(x) of a normal positive number
INLINED float vector_log(float x) {
    const uint32_t bits = bits_of_float(x), shifted = bits - 0x3f3504f3;  // of sqrt(1/2)
    const float n = (float)((int32_t)shifted >> 23), m = float_of_bits((shifted & 0x7fffff) + 0x3f3504f3) - 1, z = m * m;
    float p = 7.0376836292e-2f;
    p = p * m - 1.1514610310e-1f, p = p * m + 1.1676998740e-1f, p = p * m - 1.2420140846e-1f, p = p * m + 1.4249322787e-1f;
    p = p * m - 1.6668057665e-1f, p = p * m + 2.0000714765e-1f, p = p * m - 2.4999993993e-1f, p = p * m + 3.3333331174e-1f;
    return m + (p * m * z - 2.12194440e-4f * n - 0.5f * z) + 0.693359375f * n;
}

// two normal numbers from two of 32 bits
INLINED void normal_pair_float(uint32_t first, uint32_t second, float *one, float *other) {
    const float radius = sqrtf(-2 * vector_log((float)(int32_t)((first >> 8) + 1) * 0x1p-24f));
    const float turns = (float)(int32_t)(second >> 8) * 0x1p-22f, quadrant = rintf(turns);  // of a quarter each
    const float f = (turns - quadrant) * 1.57079633f, z = f * f;
    const int32_t q = (int32_t)quadrant;
    const float s = ((-1.9515295891e-4f * z + 8.3321608736e-3f) * z - 1.6666654611e-1f) * z * f + f;
    const float c = ((2.443315711809948e-5f * z - 1.388731625493765e-3f) * z + 4.166664568298827e-2f) * z * z - 0.5f * z + 1;
    const float x = q & 1 ? s : c, y = q & 1 ? c : s;
    *one = radius * ((q + 1) & 2 ? -x : x);
    *other = radius * (q & 2 ? -y : y);
}

INLINED void normal_pair_double(uint32_t first, uint32_t second, double *one, double *other) {
    const double radius = (sqrt)(-2 * (log)((first + 1.0) * 0x1p-32)), angle = second * (0x1p-31 * 3.14159265358979323846);
    *one = radius * cos(angle), *other = radius * sin(angle);
}

// the numbers of one tile of the stream ``stream``
static void normal_tile(scalar *restrict out, uint64_t key, uint32_t stream, uint64_t tile) {
#pragma omp simd
    for (uint32_t lane = 0; lane < QUARTER; lane++) {
        uint32_t a = (uint32_t)(tile * QUARTER) + lane, b = (uint32_t)(tile * QUARTER >> 32), c = stream, d = 0;
        uint32_t k = (uint32_t)key, l = (uint32_t)(key >> 32);
        for (int round = 0; round < ROUNDS; round++, k += 0x9E3779B9u, l += 0xBB67AE85u) {
            const uint64_t p = (uint64_t)0xD2511F53u * a, r = (uint64_t)0xCD9E8D57u * c;
            a = (uint32_t)(r >> 32) ^ b ^ k, b = (uint32_t)r, c = (uint32_t)(p >> 32) ^ d ^ l, d = (uint32_t)p;
        }
        OF_TYPE(normal_pair, scalar)(a, b, &out[lane], &out[lane + QUARTER]);
        OF_TYPE(normal_pair, scalar)(c, d, &out[lane + 2 * QUARTER], &out[lane + 3 * QUARTER]);
    }
}
#endif
