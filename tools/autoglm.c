/*
 * autoglm: the command line. Each subcommand is a file of its own.
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "tools/cli.h"

static const char usage[] =
    "Usage: autoglm [--socket PATH] COMMAND [OPTIONS]\n"
    "Talks to autoglmd through shared memory.\n"
    "\n"
    "  run         one prompt, one answer\n"
    "  chat        a conversation, line by line\n"
    "  status      what the daemon holds and does\n"
    "  tokenize    text to token ids and back; needs no daemon\n"
    "  bench       measure: bench dispatch, engine, kernels\n"
    "  perplexity  how well a model foresees a text; needs no daemon\n"
    "\n"
    "  --help      this text; autoglm COMMAND --help tells more\n"
    "  --version   the version\n"
    "\n"
    "The daemon's socket is --socket PATH, else $AUTOGLM_SOCKET, else /run/autoglm/autoglm.sock.\n";

static const struct {
    const char *name;
    int (*main)(int argc, char **argv);
} commands[] = {
    {"run", run_main},           {"chat", chat_main},   {"status", status_main},
    {"tokenize", tokenize_main}, {"bench", bench_main}, {"perplexity", perplexity_main},
};

enum { COMMANDS = sizeof commands / sizeof commands[0] };

static int run_command(int argc, char **argv)
{
    for (int i = 0; i < COMMANDS; i++)
        if (strcmp(argv[0], commands[i].name) == 0)
            return commands[i].main(argc, argv);
    return cli_usage("%s is not a command", argv[0]);
}

int main(int argc, char **argv)
{
    if (argc >= 2 && strcmp(argv[1], "--help") == 0) {
        fputs(usage, stdout);
        return cli_finish(0);
    }
    if (argc >= 2 && strcmp(argv[1], "--version") == 0) {
        printf("autoglm %s\n", agl_version());
        return cli_finish(0);
    }
    if (argc < 2) {
        fputs(usage, stderr);
        return CLI_USAGE;
    }
    int status = cli_move_socket(argc, argv);
    if (!status)
        status = cli_finish(run_command(argc - 1, argv + 1));
    if (status == CLI_INTERRUPTED) { /* end as if nothing had caught it, so that loops end too */
        signal(SIGINT, SIG_DFL);
        raise(SIGINT);
    }
    return status;
}
