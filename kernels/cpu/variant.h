/*
 * One operation, several instruction sets: the files of operations are compiled once for each, with
 * other flags and another suffix (see CMakeLists.txt), and cpu.c picks one set when it opens.
 */
#ifndef AGL_KERNELS_CPU_VARIANT_H
#define AGL_KERNELS_CPU_VARIANT_H

#ifndef CPU_VARIANT
#define CPU_VARIANT plain
#endif

#define VARIANT_JOIN(name, variant) name##_##variant
#define VARIANT_EXPAND(name, variant) VARIANT_JOIN(name, variant)

/* VARIANT(cpu_linear) is cpu_linear_avx2 in the AVX2 set. */
#define VARIANT(name) VARIANT_EXPAND(name, CPU_VARIANT)

#endif
