/* The part of cmocka that the engine's tests use, for cross builds, where the library is not at hand. A failed assertion
 * ends the program. */
#ifndef RUNG_TESTS_CROSS_CMOCKA_H
#define RUNG_TESTS_CROSS_CMOCKA_H

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct CMUnitTest {
    const char *name;
    void (*run)(void **state);
};
#define cmocka_unit_test(f) {#f, f}

__attribute__((noreturn, format(printf, 3, 4))) static inline void cross_fail(const char *file, int line, const char *format, ...)
{
    va_list list;
    (void)fprintf(stderr, "%s:%d: ", file, line);
    va_start(list, format);
    (void)vfprintf(stderr, format, list);
    va_end(list);
    (void)fputc('\n', stderr);
    exit(1);
}
#define fail_msg(...) cross_fail(__FILE__, __LINE__, __VA_ARGS__)
#define CROSS_ASSERT(ok, what) ((ok) ? (void)0 : fail_msg("%s", what))
#define assert_true(x) CROSS_ASSERT(x, #x)
#define assert_false(x) CROSS_ASSERT(!(x), "not " #x)
#define assert_null(x) CROSS_ASSERT((x) == NULL, #x " is not NULL")
#define assert_non_null(x) CROSS_ASSERT((x) != NULL, #x " is NULL")
#define assert_int_equal(a, b) CROSS_ASSERT((long long)(a) == (long long)(b), #a " != " #b)
#define assert_string_equal(a, b) CROSS_ASSERT(strcmp(a, b) == 0, #a " != " #b)
#define assert_string_not_equal(a, b) CROSS_ASSERT(strcmp(a, b) != 0, #a " == " #b)
#define assert_memory_equal(a, b, n) CROSS_ASSERT(memcmp(a, b, n) == 0, #a " != " #b)
#define assert_memory_not_equal(a, b, n) CROSS_ASSERT(memcmp(a, b, n) != 0, #a " == " #b)

static inline int cmocka_run_group_tests_of(const struct CMUnitTest *tests, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        void *state = NULL;
        (void)printf("%s\n", tests[i].name);
        (void)fflush(stdout);
        tests[i].run(&state);
    }
    return 0;
}
#define cmocka_run_group_tests(tests, setup, teardown) cmocka_run_group_tests_of(tests, sizeof(tests) / sizeof *(tests))

#endif
