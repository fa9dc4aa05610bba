// All kernels: name, and the types of the arguments of a call from Python, one letter each: i for an integer or an address, d for
// a float. Each NAME.c is compiled for float and for double, with ``scalar`` as the type.
#ifndef KERNELS
#define KERNELS(KERNEL) \
    KERNEL(adam, "iiiiiiiiiiii") \
    KERNEL(finite, "iii") \
    KERNEL(gate_gradient, "iiiiiiii") \
    KERNEL(gates, "iiiiiiiiddddd") \
    KERNEL(gram, "iiii") \
    KERNEL(path_integral, "iii") \
    KERNEL(penalty_gradient, "iidii") \
    KERNEL(perturb, "iiddi") \
    KERNEL(replace_unit, "iiiiidiii") \
    KERNEL(restore, "iii") \
    KERNEL(running_averages, "iiiiiii") \
    KERNEL(sgd, "iiiiiii") \
    KERNEL(slowed_step, "iiii") \
    KERNEL(unit_statistics, "iiiiiiiii") \
    KERNEL(unit_update, "iiiii") \
    KERNEL(upgd_step, "iiidddii") \
    KERNEL(upgd_utility, "iidiii") \
    KERNEL(weight_utility, "iiiidi")

#include <stdint.h>

// One argument of a call. An address is read by the macro ADDRESS.
typedef union {
    int64_t i;
    double d;
} argument;

#define ADDRESS(type, number) ((type *)(intptr_t)(number))

#define JOINED(name, type) name##_##type
#define OF_TYPE(name, type) JOINED(name, type)

// Calls body(context, first, last) for ranges that together are 0..items - 1: in several threads if ``size``, the number of
// elements to be processed, is large. What is computed must not depend on where the ranges begin and end.
void in_parallel(void (*body)(const void *context, int64_t first, int64_t last), const void *context, int64_t items,
                 int64_t size, int64_t threads);

#ifdef scalar
// the function of a kernel: ``DEFINE(adam) { ... a[0].i ... }``
#define DEFINE(name) void OF_TYPE(name, scalar)(const argument *a)

#include <float.h>
#include <math.h>
#include <string.h>

// functions of math.h for both types; tgmath.h of some compilers fails on Windows
#define BY_TYPE(x, of_float, of_double) _Generic((x), float: of_float, double: of_double)
#define fabs(x) BY_TYPE(x, fabsf, fabs)(x)
#define sqrt(x) BY_TYPE(x, sqrtf, sqrt)(x)
#define exp(x) BY_TYPE(x, expf, exp)(x)
#define expm1(x) BY_TYPE(x, expm1f, expm1)(x)
#define fma(x, y, z) BY_TYPE(x, fmaf, fma)(x, y, z)

#define IS_FLOAT (sizeof(scalar) == sizeof(float))
#define SMALLEST_NORMAL ((scalar)(IS_FLOAT ? FLT_MIN : DBL_MIN))
#define LARGEST ((scalar)(IS_FLOAT ? FLT_MAX : DBL_MAX))
#define EPSILON ((scalar)(IS_FLOAT ? FLT_EPSILON : DBL_EPSILON))

// x * y + z, rounded once where there is an instruction for it; torch does the same
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
#define multiply_add(x, y, z) fma(x, y, z)
#else
#define multiply_add(x, y, z) ((x) * (y) + (z))
#endif

// a function of which a variant is compiled for each combination of constant arguments that it is called with
#define INLINED static inline __attribute__((always_inline))

static inline int64_t smaller(int64_t x, int64_t y) { return x < y ? x : y; }
static inline int64_t larger(int64_t x, int64_t y) { return x < y ? y : x; }
#endif
#endif
