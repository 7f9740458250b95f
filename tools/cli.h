/*
 * What the subcommands of `autoglm` share: messages, numbers, standard input, the connection.
 *
 * Every subcommand is a function like main() that returns the exit status: 0, CLI_FAILED after one
 * line on stderr, CLI_USAGE when its arguments make no sense, or CLI_INTERRUPTED.
 */
#ifndef AGL_TOOLS_CLI_H
#define AGL_TOOLS_CLI_H

#include <getopt.h>
#include <stdbool.h>
#include <stdint.h>

#include <autoglm.h>

enum { CLI_FAILED = 1, CLI_USAGE = 2, CLI_INTERRUPTED = 128 + 2 /* as shells say SIGINT */ };

int run_main(int argc, char **argv);
int chat_main(int argc, char **argv);
int status_main(int argc, char **argv);
int tokenize_main(int argc, char **argv);
int bench_main(int argc, char **argv);
int perplexity_main(int argc, char **argv);

/* Prints "autoglm: ..." on stderr; returns CLI_FAILED. */
__attribute__((format(printf, 1, 2))) int cli_fail(const char *format, ...);

/* The same with where to find help; returns CLI_USAGE. */
__attribute__((format(printf, 1, 2))) int cli_usage(const char *format, ...);

/* Prints a failed library call: what was tried, the sentence, the detail; returns CLI_FAILED. */
int cli_error(const char *doing, int error);

/* Of "--socket PATH WORD ..." from argv[1] on: moves WORD in front, where the command's own options
 * follow it. 0, also if argv[1] is not --socket; CLI_USAGE after a message if WORD is missing. */
int cli_move_socket(int argc, char **argv);

/* Flushes stdout. `status`; CLI_FAILED after a message if that was 0 and what was printed did not
 * get out. */
int cli_finish(int status);

/* Parses the value of an option within bounds; false after a message that names it. */
bool cli_number(const char *option, const char *text, double least, double most, double *ret_value);
bool cli_count(const char *option, const char *text, uint64_t least, uint64_t most,
               uint64_t *ret_value);

/* Which of `words`, NULL behind the last, the value of an option is; -1 after a message with all.
 */
int cli_word(const char *option, const char *text, const char *const *words);

/* The next option of `command`, as getopt_long() with opterr off. -1: none are left; CLI_BAD: after
 * a message. optind must be 1 at the first call. */
enum { CLI_BAD = -2 };
int cli_option(const char *command, int argc, char **argv, const char *letters,
               const struct option *options);

/* Reads all of standard input into malloc'd memory with a NUL behind it; NULL after a message. */
char *cli_read_stdin(size_t *ret_bytes);
char *cli_read_file(const char *path, size_t *ret_bytes); /* the same of a file */

/* Parses "1,403,407" into malloc'd ids; NULL after a message. */
uint32_t *cli_parse_ids(const char *text, uint32_t *ret_count);

/* Connects; 0 or CLI_FAILED after a message, which says where the daemon was looked for. */
int cli_connect(struct agl_client **ret_client, const struct agl_options *options);

/* Opens the tokenizer at `path`, or, if NULL, the one in the model's folder. 0 or CLI_FAILED. */
int cli_open_tokenizer(struct agl_tokenizer **ret_tokenizer, const char *path,
                       const struct agl_model *model);

#endif
