/*
 * autoglm bench: the project's own measurements.
 */
#include "tools/bench.h"

#include <stdio.h>
#include <string.h>

#include "tools/cli.h"

static const char usage[] =
    "Usage: autoglm bench WHAT [OPTIONS]\n"
    "\n"
    "  dispatch    the way of a request to the engine and back, without the model's arithmetic\n"
    "  engine      the model's arithmetic, beside what this machine can do\n"
    "  kernels     the same for each operation alone\n"
    "\n"
    "autoglm bench WHAT --help tells more.\n";

int bench_main(int argc, char **argv)
{
    int status = cli_move_socket(argc, argv);
    if (status)
        return status;
    if (argc >= 2 && strcmp(argv[1], "dispatch") == 0)
        return bench_dispatch_main(argc - 1, argv + 1);
    if (argc >= 2 && strcmp(argv[1], "engine") == 0)
        return bench_engine_main(argc - 1, argv + 1);
    if (argc >= 2 && strcmp(argv[1], "kernels") == 0)
        return bench_kernels_main(argc - 1, argv + 1);
    if (argc >= 2 && strcmp(argv[1], "--help") == 0) {
        fputs(usage, stdout);
        return 0;
    }
    if (argc >= 2)
        return cli_usage("bench: %s is not something to measure", argv[1]);
    fputs(usage, stderr);
    return CLI_USAGE;
}
