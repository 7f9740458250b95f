#ifndef AGL_TOOLS_BENCH_H
#define AGL_TOOLS_BENCH_H

/* Like main(), argv[0] being the name of the measurement. */
int bench_dispatch_main(int argc, char **argv);
int bench_engine_main(int argc, char **argv);
int bench_kernels_main(int argc, char **argv);

#endif
