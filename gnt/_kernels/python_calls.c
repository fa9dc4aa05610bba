// The kernels as functions that Python can call: each gets its arguments as a C array, at the price of a call of a builtin.
//
// Of Python only functions of its stable interface are used, whose addresses are passed to ``gnt_initialize``: this file needs no
// header of Python, and what is compiled from it works in all versions of CPython. In the same way it gets the functions of the
// OpenMP runtime that torch has loaded, so that there is only one in the process.
#include "kernels.h"

#if defined(_WIN32)
#define EXPORTED __declspec(dllexport)
#else
#define EXPORTED __attribute__((visibility("default")))
#endif

enum { MAX_ARGUMENTS = 16, MIN_PARALLEL_SIZE = 1 << 15, FASTCALL = 0x80 };

typedef struct object object;  // PyObject
typedef object *(*python_function)(object *self, object *const *given, intptr_t count);
typedef struct {
    const char *name;
    python_function function;
    int flags;
    const char *doc;
} method_definition;  // PyMethodDef

static struct {  // library.py passes the addresses in this order
    intptr_t (*as_integer)(object *);
    double (*as_double)(object *);
    object *(*error_occurred)(void);
    void (*set_error)(object *type, const char *text);
    object *(*make_function)(method_definition *, object *self, object *module);
    void (*new_reference)(object *);
    void *(*release_lock)(void);
    void (*take_lock)(void *);
    object *none, *type_error;
} python;

static struct {  // null if there is no OpenMP
    void (*parallel)(void (*body)(void *), void *data, unsigned threads, unsigned flags);
    int (*thread_number)(void);
    int (*num_threads)(void);
} openmp;

typedef struct {
    void (*body)(const void *context, int64_t first, int64_t last);
    const void *context;
    int64_t items;
} shared_work;

static void part_of_a_thread(void *data) {
    const shared_work *work = data;
    const int64_t threads = openmp.num_threads(), thread = openmp.thread_number();
    const int64_t first = work->items * thread / threads, last = work->items * (thread + 1) / threads;
    if (first < last) work->body(work->context, first, last);
}

void in_parallel(void (*body)(const void *context, int64_t first, int64_t last), const void *context, int64_t items,
                 int64_t size, int64_t threads) {
    if (size <= MIN_PARALLEL_SIZE) {
        body(context, 0, items);
        return;
    }
    void *state = python.release_lock();  // other threads of Python run meanwhile
    if (openmp.parallel && threads > 1 && items > 1) {
        shared_work work = {body, context, items};
        openmp.parallel(part_of_a_thread, &work, (unsigned)(threads < items ? threads : items), 0);
    } else {
        body(context, 0, items);
    }
    python.take_lock(state);
}

static object *call(void (*kernel)(const argument *), const char *types, object *const *given, intptr_t count) {
    argument converted[MAX_ARGUMENTS];
    intptr_t i = 0;
    for (; i < count && types[i]; i++) {
        if (types[i] == 'd') {
            converted[i].d = python.as_double(given[i]);
            if (converted[i].d == -1.0 && python.error_occurred()) return 0;
        } else {
            converted[i].i = python.as_integer(given[i]);
            if (converted[i].i == -1 && python.error_occurred()) return 0;
        }
    }
    if (i < count || types[i]) {
        python.set_error(python.type_error, "a kernel got the wrong number of arguments");
        return 0;
    }
    kernel(converted);
    python.new_reference(python.none);
    return python.none;
}

#define CALLED_FROM_PYTHON(name, type, types) \
    void OF_TYPE(name, type)(const argument *); \
    static object *OF_TYPE(call_##name, type)(object *self, object *const *given, intptr_t count) { \
        (void)self; \
        _Static_assert(sizeof(types) <= MAX_ARGUMENTS + 1, "too many arguments"); \
        return call(OF_TYPE(name, type), types, given, count); \
    }
#define BOTH(name, types) CALLED_FROM_PYTHON(name, float, types) CALLED_FROM_PYTHON(name, double, types)
KERNELS(BOTH)

#define METHOD(name, type) {#name "_" #type, OF_TYPE(call_##name, type), FASTCALL, 0},
#define METHODS(name, types) METHOD(name, float) METHOD(name, double)
static method_definition methods[] = {KERNELS(METHODS)};

// The number of kernels. ``threads``: the functions of OpenMP, or nulls.
EXPORTED int64_t gnt_initialize(const void *const *addresses, const void *const *threads) {
    _Static_assert(sizeof(python) == 10 * sizeof(void *) && sizeof(openmp) == 3 * sizeof(void *), "one address each");
    const void **targets[] = {(const void **)&python, (const void **)&openmp};
    for (int i = 0; i < 10; i++) targets[0][i] = addresses[i];
    for (int i = 0; i < 3; i++) targets[1][i] = threads[i];
    return sizeof(methods) / sizeof(methods[0]);
}

// The name of a kernel and its type, such as adam_float.
EXPORTED const char *gnt_name(int64_t number) { return methods[number].name; }

// A new Python function.
EXPORTED object *gnt_function(int64_t number) { return python.make_function(&methods[number], 0, 0); }
