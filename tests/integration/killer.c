#include "tests/integration/killer.h"

#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <link.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <autoglm.h>

#include "tests/support/test.h"

enum {
    CALIBRATION_LIVES = 40,
    CALIBRATION_PHASES = 200,
    PHASE_STEPS_MAX = 20000, /* what waits can take as many instructions as it likes */
    INTERRUPT_STEPS = 2000,
    FIRST_STEPS = 8,
    STOP_TRIES_MS = 3000,
    LONG_MS = 30000, /* for what must come, however busy the machine is */
};

static uint64_t below(struct killer *killer, uint64_t limit)
{
    uint64_t high = (uint64_t)rand_r(&killer->seed);
    return (high << 31 | (uint64_t)rand_r(&killer->seed)) % limit;
}

static void sleep_ns(uint64_t ns)
{
    nanosleep(
        &(struct timespec){.tv_sec = (time_t)(ns / 1000000000), .tv_nsec = (long)(ns % 1000000000)},
        NULL);
}

static uint32_t told(const _Atomic uint32_t *word)
{
    return atomic_load_explicit(word, memory_order_relaxed);
}

static void fail_victim(const struct killer *killer, const char *what, int status)
{
    const char *why = killer->state->failure;
    fail_msg("a victim %s (status %#x, phase %s): %s", what, status,
             victim_phase_names[told(&killer->state->phase)], *why ? why : "it said nothing");
}

static pid_t beget(struct killer *killer, enum victim_phase stop_phase, uint32_t stop_count)
{
    const struct victim_plan plan = {.socket_path = killer->socket_path,
                                     .seed = (unsigned)rand_r(&killer->seed),
                                     .stop_phase = stop_phase,
                                     .stop_count = stop_count};
    pid_t pid = victim_fork(killer->state, &plan);
    assert_true(pid > 0);
    return pid;
}

/* Whether it has ended; a stop stays for await_stop() to see. */
static bool has_ended(pid_t pid)
{
    siginfo_t info = {.si_pid = 0};
    waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT | __WALL);
    return info.si_pid == pid;
}

static void await_first_mark(const struct killer *killer, pid_t pid)
{
    uint64_t end_ns = agl_now_ns() + (uint64_t)LONG_MS * 1000000;
    while (!told(&killer->state->marks)) {
        if (has_ended(pid))
            fail_victim(killer, "ended by itself", 0);
        if (agl_now_ns() > end_ns)
            fail_victim(killer, "never began to live", 0);
        sleep_ns(1000);
    }
}

/* ---- stopping and stepping ------------------------------------------------------------------- */

/* Waits for the victim to stop. false: it did not in time. */
static bool await_stop(const struct killer *killer, pid_t pid, uint32_t limit_ms)
{
    uint64_t end_ns = agl_now_ns() + (uint64_t)limit_ms * 1000000;
    for (;;) {
        int status = 0;
        pid_t got = waitpid(pid, &status, WNOHANG | __WALL);
        if (got == pid && WIFSTOPPED(status))
            return true;
        if (got != 0)
            fail_victim(killer, "ended by itself", status);
        if (agl_now_ns() > end_ns)
            return false;
        sleep_ns(10000);
    }
}

/* One instruction, or one whole system call. */
static void step(const struct killer *killer, pid_t pid)
{
    int status = 0;
    if (ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL) < 0)
        fail_msg("cannot step a victim: %s", strerror(errno));
    if (waitpid(pid, &status, __WALL) != pid || !WIFSTOPPED(status))
        fail_victim(killer, "ended while it was stepped", status);
}

static uintptr_t next_instruction(pid_t pid)
{
#if defined(__x86_64__) || defined(__aarch64__)
    struct user_regs_struct registers;
    struct iovec part = {.iov_base = &registers, .iov_len = sizeof registers};
    if (ptrace(PTRACE_GETREGSET, pid, (void *)(uintptr_t)NT_PRSTATUS, &part) < 0)
        return 0;
#ifdef __x86_64__
    return registers.rip;
#else
    return registers.pc;
#endif
#else
    return 0;
#endif
}

/* ---- how long things take -------------------------------------------------------------------- */

static void put_down(pid_t pid)
{
    kill(pid, SIGKILL);
    waitpid(pid, NULL, __WALL);
}

static void measure_lives(struct killer *killer)
{
    pid_t pid = beget(killer, VICTIM_BORN, 0);
    await_first_mark(killer, pid);
    uint64_t start_ns = agl_now_ns();
    while (told(&killer->state->lives) < CALIBRATION_LIVES) {
        int status = 0;
        if (waitpid(pid, &status, WNOHANG) == pid)
            fail_victim(killer, "ended by itself", status);
        sleep_ns(100000);
    }
    killer->life_ns = (agl_now_ns() - start_ns) / CALIBRATION_LIVES;
    put_down(pid);
}

/* Steps through a phase, which ends with the next mark; remembers its length. */
static void measure_phase(struct killer *killer, pid_t pid)
{
    uint32_t phase = told(&killer->state->phase);
    uint32_t marks = told(&killer->state->marks);
    uint32_t steps = 0;
    while (steps < PHASE_STEPS_MAX && told(&killer->state->marks) == marks) {
        step(killer, pid);
        steps++;
    }
    if (steps > killer->phase_steps[phase])
        killer->phase_steps[phase] = steps;
}

static bool seize(struct killer *killer, pid_t pid)
{
    if (ptrace(PTRACE_SEIZE, pid, NULL, (void *)(uintptr_t)PTRACE_O_EXITKILL) == 0)
        return true;
    fprintf(stderr,
            "\n*** NOT TRACED: the kernel does not let this process trace its child (%s).\n"
            "*** Every victim is killed after a random time, none at a chosen instruction.\n\n",
            strerror(errno));
    killer->may_trace = false;
    return false;
}

/* Each phase once, from where a victim stopped before it. */
static void measure_phases(struct killer *killer)
{
    for (uint32_t phase = VICTIM_CONNECT; phase < VICTIM_PHASES && killer->may_trace; phase++) {
        pid_t pid = beget(killer, phase, 1);
        if (seize(killer, pid)) {
            if (!await_stop(killer, pid, LONG_MS))
                fail_victim(killer, "never came to the phase to be measured", (int)phase);
            measure_phase(killer, pid);
        }
        put_down(pid);
    }
}

static int find_library(struct dl_phdr_info *info, size_t bytes, void *argument)
{
    struct killer *killer = argument;
    if (!strstr(info->dlpi_name, "libautoglm"))
        return 0;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *part = &info->dlpi_phdr[i];
        if (part->p_type != PT_LOAD || !(part->p_flags & PF_X))
            continue;
        killer->library_start = info->dlpi_addr + part->p_vaddr;
        killer->library_end = killer->library_start + part->p_memsz;
    }
    return 1;
}

void killer_init(struct killer *ret_killer, const char *socket_path, unsigned seed)
{
    struct killer *killer = ret_killer;
    *killer = (struct killer){.socket_path = socket_path, .seed = seed, .may_trace = true};
    killer->state = mmap(NULL, sizeof *killer->state, PROT_READ | PROT_WRITE,
                         MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(killer->state != MAP_FAILED);
    dl_iterate_phdr(find_library, killer);
    assert_true(killer->library_end > killer->library_start);
    prctl(PR_SET_TIMERSLACK, 1); /* microseconds are meant as such */
    measure_lives(killer);
    measure_phases(killer);
}

void killer_fini(struct killer *killer)
{
    munmap(killer->state, sizeof *killer->state);
}

/* ---- killing --------------------------------------------------------------------------------- */

static void step_to_place(struct killer *killer, pid_t pid, uint32_t steps, struct kill *kill_)
{
    for (uint32_t i = 0; i < steps; i++)
        step(killer, pid);
    kill_->steps = steps;
    kill_->place = next_instruction(pid);
    kill_->is_in_library =
        kill_->place >= killer->library_start && kill_->place < killer->library_end;
}

static pid_t beget_traced(struct killer *killer, enum victim_phase stop_phase, uint32_t stop_count)
{
    pid_t pid = beget(killer, stop_phase, stop_count);
    if (!seize(killer, pid))
        fail_msg("tracing was allowed before");
    return pid;
}

static void live_for_a_while(struct killer *killer, pid_t pid)
{
    await_first_mark(killer, pid);
    sleep_ns(below(killer, killer->life_ns + 1));
}

static pid_t aim_by_delay(struct killer *killer)
{
    pid_t pid = beget(killer, VICTIM_BORN, 0);
    live_for_a_while(killer, pid);
    return pid;
}

/* One phase after the other, so that each has its turns: the first time at its very begin, where it
 * is sure to die in this one; then anywhere in its length, or in what comes after a shorter one. */
static pid_t aim_from_mark(struct killer *killer, struct kill *kill_)
{
    enum victim_phase phase = 1 + (enum victim_phase)(killer->marked % (VICTIM_PHASES - 1));
    bool is_first = killer->marked++ < VICTIM_PHASES - 1;
    uint32_t length = is_first ? FIRST_STEPS : killer->phase_steps[phase] + 1;
    uint32_t stop_count = is_first ? 1 : 1 + (uint32_t)below(killer, 2);
    pid_t pid = beget_traced(killer, phase, stop_count);
    if (await_stop(killer, pid, is_first ? LONG_MS : STOP_TRIES_MS))
        step_to_place(killer, pid, (uint32_t)below(killer, length), kill_);
    else
        kill_->way = KILLER_DELAY; /* a long one: the phase did not come in time */
    return pid;
}

static pid_t aim_from_interrupt(struct killer *killer, struct kill *kill_)
{
    pid_t pid = beget_traced(killer, VICTIM_BORN, 0);
    live_for_a_while(killer, pid);
    if (ptrace(PTRACE_INTERRUPT, pid, NULL, NULL) < 0)
        fail_msg("cannot interrupt a victim: %s", strerror(errno));
    if (!await_stop(killer, pid, STOP_TRIES_MS))
        fail_victim(killer, "did not stop", 0);
    step_to_place(killer, pid, (uint32_t)below(killer, INTERRUPT_STEPS), kill_);
    return pid;
}

pid_t killer_aim(struct killer *killer, enum killer_way way, struct kill *ret_kill)
{
    *ret_kill = (struct kill){.way = killer->may_trace ? way : KILLER_DELAY};
    switch (ret_kill->way) {
    case KILLER_MARK:
        return aim_from_mark(killer, ret_kill);
    case KILLER_INTERRUPT:
        return aim_from_interrupt(killer, ret_kill);
    default:
        return aim_by_delay(killer);
    }
}

void killer_strike(struct killer *killer, pid_t pid, struct kill *kill_)
{
    int status = 0;
    kill_->kill_ns = agl_now_ns();
    kill(pid, SIGKILL);
    if (waitpid(pid, &status, __WALL) != pid || !WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
        fail_victim(killer, "ended by itself", status);
    kill_->dead_ns = agl_now_ns();
    kill_->phase = told(&killer->state->phase);
    kill_->has_session = told(&killer->state->has_session);
    kill_->live_requests = told(&killer->state->live_requests);
    kill_->kept_requests = told(&killer->state->kept_requests);
}
