/*
 * Lists of numbers in options: "1,8,64".
 */
#ifndef AGL_TOOLS_BENCH_LIST_H
#define AGL_TOOLS_BENCH_LIST_H

#include <stdbool.h>
#include <stdint.h>

enum { BENCH_LIST_MAX = 8 };
struct bench_list {
    uint32_t count; /* 0: not given */
    uint32_t values[BENCH_LIST_MAX];
};

/* Values come out in the order given, each once; false: it makes no sense. */
bool bench_list_parse(const char *text, uint32_t least, uint32_t most, struct bench_list *ret_list);

/* The same for the option `name`; false after a message. */
bool bench_list_read(const char *name, const char *text, uint32_t least, uint32_t most,
                     struct bench_list *ret_list);

/* The least of its values; UINT32_MAX without any. */
uint32_t bench_list_least(const struct bench_list *list);

#endif
