#include "tools/bench_daemon.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tools/cli.h"

enum { PATH_BYTES = 4096, START_TRIES = 500, TRY_NS = 10000000 };

static struct bench_daemon current; /* what a signal has to stop */

/* Ends the daemon with us, also one that is held: it would hold a stop signal back for ever. */
static void stop_and_end(int signal_number)
{
    int kept_errno = errno; /* the signal is blocked in here: we go on for a moment afterwards */
    kill(current.pid, SIGTERM);
    kill(current.pid, SIGCONT);
    while (waitpid(current.pid, NULL, 0) < 0 && errno == EINTR)
        continue;
    unlink(current.socket_path);
    rmdir(current.folder);
    signal(signal_number, SIG_DFL);
    raise(signal_number);
    errno = kept_errno;
}

static void catch_signals(void (*handler)(int))
{
    static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
    for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++) {
        struct sigaction action = {.sa_handler = handler};
        struct sigaction before;
        sigfillset(&action.sa_mask);
        if (sigaction(signals[i], NULL, &before) == 0 && before.sa_handler != SIG_IGN)
            sigaction(signals[i], &action, NULL);
    }
}

/* The daemon that belongs to this program: installed in ../sbin, or built in ../daemon. */
static const char *find_program(char *buffer)
{
    static const char *const places[] = {"../sbin/autoglmd", "../daemon/autoglmd", "autoglmd"};
    char self[PATH_BYTES];
    ssize_t bytes = readlink("/proc/self/exe", self, sizeof self - 1);
    if (bytes > 0) {
        self[bytes] = 0;
        char *slash = strrchr(self, '/');
        if (slash)
            *slash = 0;
        for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
            int length = snprintf(buffer, PATH_BYTES, "%s/%s", self, places[i]);
            if (length < PATH_BYTES && access(buffer, X_OK) == 0)
                return buffer;
        }
    }
    return "autoglmd";
}

static void run_program(const char *program, const struct bench_daemon *daemon, const char *mode,
                        int processor)
{
    char instance[32];
    snprintf(instance, sizeof instance, "bench-%d", (int)getpid());
    if (processor >= 0) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET((size_t)processor, &set);
        sched_setaffinity(0, sizeof set, &set);
    }
    prctl(PR_SET_PDEATHSIG, SIGTERM); /* it ends with the benchmark, however that ends */
    execlp(program, program, "--model", "echo=echo:", "--socket", daemon->socket_path, "--instance",
           instance, "--wait", mode, "--threads", "1", "--log-level", "error", (char *)NULL);
    fprintf(stderr, "autoglm: cannot start %s: %s\n", program, strerror(errno));
    _exit(127);
}

/* 1: it serves; 0: not yet; -1: it has ended. */
static int is_serving(const struct bench_daemon *daemon)
{
    struct agl_options options = AGL_OPTIONS_INIT;
    options.socket_path = daemon->socket_path;
    struct agl_client *client = NULL;
    if (agl_connect(&client, &options) == 0) {
        agl_close(client);
        return 1;
    }
    return waitpid(daemon->pid, NULL, WNOHANG) == daemon->pid ? -1 : 0;
}

int bench_daemon_start(struct bench_daemon *ret_daemon, const char *program, const char *mode,
                       int processor)
{
    char buffer[PATH_BYTES];
    struct bench_daemon daemon = {.folder = "/tmp/autoglm-bench-XXXXXX"};
    if (!program)
        program = find_program(buffer);
    if (!mkdtemp(daemon.folder))
        return cli_fail("cannot make a folder in /tmp: %s", strerror(errno));
    snprintf(daemon.socket_path, sizeof daemon.socket_path, "%s/socket", daemon.folder);
    daemon.pid = fork();
    if (daemon.pid == 0)
        run_program(program, &daemon, mode, processor);
    if (daemon.pid < 0) {
        rmdir(daemon.folder);
        return cli_fail("cannot start a process: %s", strerror(errno));
    }
    current = daemon;
    catch_signals(stop_and_end);
    int serving = 0;
    for (int i = 0; i < START_TRIES && !serving; i++) {
        nanosleep(&(struct timespec){.tv_nsec = TRY_NS}, NULL);
        serving = is_serving(&daemon);
    }
    if (serving <= 0) {
        catch_signals(SIG_DFL);
        if (serving == 0)
            bench_daemon_stop(&daemon);
        else
            rmdir(daemon.folder);
        return cli_fail("%s did not start to serve (--daemon PATH names another)", program);
    }
    *ret_daemon = daemon;
    return 0;
}

void bench_daemon_stop(struct bench_daemon *daemon)
{
    catch_signals(SIG_DFL);
    kill(daemon->pid, SIGTERM);
    waitpid(daemon->pid, NULL, 0);
    unlink(daemon->socket_path); /* the daemon has done so, unless it was killed */
    rmdir(daemon->folder);
}

void bench_daemon_pause(const struct bench_daemon *daemon)
{
    kill(daemon->pid, SIGSTOP);
    waitpid(daemon->pid, NULL, WUNTRACED);
}

void bench_daemon_resume(const struct bench_daemon *daemon)
{
    kill(daemon->pid, SIGCONT);
}
