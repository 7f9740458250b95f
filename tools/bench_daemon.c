#include "tools/bench_daemon.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tools/bench_guard.h"
#include "tools/bench_machine.h"
#include "tools/bench_place.h"
#include "tools/bench_stop.h"
#include "tools/cli.h"

enum { START_LOOK_NS = 2000000, END_LOOK_NS = 1000000, HOLD_LOOK_NS = 20000 };

/* In a process group of its own, which no key of a terminal reaches: we stop it. */
static void run_program(const char *program, const struct bench_daemon *daemon,
                        const struct bench_daemon_options *options, pid_t parent)
{
    char sessions[16];
    snprintf(sessions, sizeof sessions, "%u", options->sessions);
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent)
        _exit(0);
    int err = machine_pin(options->processor);
    if (err < 0) {
        fprintf(stderr, "autoglm: cannot keep %s to processor %d: %s\n", program,
                options->processor, strerror(-err));
        _exit(126);
    }
    execlp(program, program, "--model", options->model, "--socket", daemon->socket_path,
           "--instance", daemon->instance, "--wait", options->wait, "--threads", "1",
           "--sessions-max", sessions, "--sessions-per-user", sessions, "--cache-mib", "64",
           "--drain-ms", "100", "--handshake-ms", "60000", "--log-level", "error", (char *)NULL);
    fprintf(stderr, "autoglm: cannot start %s: %s\n", program, strerror(errno));
    _exit(127);
}

static bool is_serving(const struct bench_daemon *daemon)
{
    struct agl_options options = AGL_OPTIONS_INIT;
    struct agl_client *client = NULL;
    options.socket_path = daemon->socket_path;
    if (agl_connect(&client, &options) < 0)
        return false;
    agl_close(client);
    return true;
}

static void pause_for(long ns)
{
    nanosleep(&(struct timespec){.tv_nsec = ns}, NULL);
}

/* The daemon has removed its socket and its board, unless it was killed. */
static void forget(struct bench_daemon *daemon)
{
    char board[sizeof daemon->instance + 16];
    snprintf(board, sizeof board, "/autoglm.%s", daemon->instance);
    shm_unlink(board);
    unlink(daemon->socket_path);
    rmdir(daemon->folder);
    bench_guard_remove(daemon->pid);
    daemon->pid = 0;
}

/* Of our child: whether it has ended. It is gone then. */
static bool has_ended(struct bench_daemon *daemon)
{
    if (waitpid(daemon->pid, NULL, WNOHANG) != daemon->pid)
        return false;
    forget(daemon);
    return true;
}

static int wait_until_serving(struct bench_daemon *daemon, const char *program)
{
    uint64_t give_up_ns = bench_give_up_ns();
    while (bench_may_wait(give_up_ns)) {
        if (is_serving(daemon))
            return 0;
        if (has_ended(daemon))
            break;
        pause_for(START_LOOK_NS);
    }
    if (bench_stop_signal())
        return bench_stop_status();
    return cli_fail("%s did not start to serve (--daemon PATH names another)", program);
}

int bench_daemon_start(struct bench_daemon *ret_daemon, const struct bench_daemon_options *options)
{
    static unsigned number;
    char found[PLACE_BYTES];
    struct bench_daemon daemon = {0};
    const char *program = options->program ? options->program : found;
    pid_t self = getpid();
    place_daemon(found);
    snprintf(daemon.folder, sizeof daemon.folder, "/tmp/autoglm-bench-%d-XXXXXX", (int)self);
    if (!mkdtemp(daemon.folder))
        return cli_fail("cannot make a folder in /tmp: %s", strerror(errno));
    snprintf(daemon.socket_path, sizeof daemon.socket_path, "%s/socket", daemon.folder);
    snprintf(daemon.instance, sizeof daemon.instance, "bench-%d-%u", (int)self, number++);
    fflush(NULL);
    daemon.pid = fork();
    if (daemon.pid == 0)
        run_program(program, &daemon, options, self);
    if (daemon.pid < 0) {
        rmdir(daemon.folder);
        return cli_fail("cannot start a process: %s", strerror(errno));
    }
    bench_guard_add(daemon.pid, daemon.folder);
    int status = wait_until_serving(&daemon, program);
    if (status)
        bench_daemon_stop(&daemon);
    else
        *ret_daemon = daemon;
    return status;
}

/* Not cut short by a signal that told us to stop: that is why we are here. */
static bool ends_in_time(struct bench_daemon *daemon)
{
    uint64_t give_up_ns = bench_give_up_ns();
    while (agl_now_ns() < give_up_ns) {
        if (has_ended(daemon))
            return true;
        pause_for(END_LOOK_NS);
    }
    return false;
}

void bench_daemon_stop(struct bench_daemon *daemon)
{
    if (!daemon->pid)
        return;
    kill(daemon->pid, SIGTERM);
    bench_daemon_resume(daemon);
    if (ends_in_time(daemon))
        return;
    kill(daemon->pid, SIGKILL);
    while (waitpid(daemon->pid, NULL, 0) < 0 && errno == EINTR)
        continue;
    forget(daemon);
}

int bench_daemon_hold(struct bench_daemon *daemon)
{
    uint64_t give_up_ns = bench_give_up_ns();
    if (!daemon->pid || daemon->is_held)
        return 0;
    kill(daemon->pid, SIGSTOP);
    daemon->is_held = true;
    while (bench_may_wait(give_up_ns)) {
        int how = 0;
        pid_t changed = waitpid(daemon->pid, &how, WNOHANG | WUNTRACED);
        if (changed == daemon->pid && WIFSTOPPED(how))
            return 0;
        if (changed == daemon->pid) {
            forget(daemon);
            return cli_fail("the daemon ended while it was measured");
        }
        pause_for(HOLD_LOOK_NS);
    }
    if (bench_stop_signal())
        return bench_stop_status();
    return cli_fail("the daemon cannot be held");
}

void bench_daemon_resume(struct bench_daemon *daemon)
{
    if (!daemon->pid)
        return;
    kill(daemon->pid, SIGCONT);
    daemon->is_held = false;
}
