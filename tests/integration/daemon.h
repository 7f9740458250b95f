/*
 * A real autoglmd for a test: started in a private folder, watched, stopped.
 */
#ifndef AGL_TESTS_INTEGRATION_DAEMON_H
#define AGL_TESTS_INTEGRATION_DAEMON_H

#include <sys/types.h>

#include <autoglm.h>

struct daemon {
    pid_t pid;
    char folder[4096];
    char socket_path[108];
    char instance[32];
    char log_path[4200];
};

/* Starts autoglmd with these flags (NULL-terminated) besides --socket and --instance, and waits
 * until it serves; fails the test with the daemon's log otherwise. */
void daemon_start(struct daemon *ret_daemon, const char *const *flags);

/* The same as another user (only root can), whose folder it is then; everybody may enter that. */
void daemon_start_as(struct daemon *ret_daemon, const char *const *flags, uid_t uid);

/* SIGTERM; returns the exit status (128 + signal if it was killed) and removes the folder. */
int daemon_stop(struct daemon *daemon);

/* SIGKILL, and the folder is removed. */
void daemon_kill(struct daemon *daemon);

/* SIGKILL and no more: what the dead daemon has left in its folder and in /dev/shm stays. Returns
 * when the signal was sent (agl_now_ns()). */
uint64_t daemon_die(struct daemon *daemon);

/* Starts another one where one has died: same socket, same instance, same log. As daemon_start().
 */
void daemon_restart(struct daemon *daemon, const char *const *flags);

/* Connects; fails the test if it cannot. */
struct agl_client *daemon_connect(const struct daemon *daemon);

/* Open descriptors of the process, the fewest within 300 ms. */
int daemon_descriptors(const struct daemon *daemon);

/* The same, now. */
int daemon_descriptors_now(const struct daemon *daemon);

/* How many halves of sessions it maps. */
int daemon_session_mappings(const struct daemon *daemon);

/* Bytes of address space that it maps (VmSize), for leak checks. */
uint64_t daemon_mapped_bytes(const struct daemon *daemon);

/* The same of the halves and the board alone, which is exact even under a sanitizer; and how much
 * of its shared memory is present (RssShmem). */
uint64_t daemon_memfd_bytes(const struct daemon *daemon);
uint64_t daemon_shared_bytes(const struct daemon *daemon);

/* Processor time of all its threads so far. */
uint64_t daemon_cpu_ns(const struct daemon *daemon);

/* Time in which its control thread and its engine, on both of which every client waits, wanted a
 * processor and got none, so far: what a test that measures may not blame on the daemon. */
uint64_t daemon_starved_ns(const struct daemon *daemon);

/* The same of any thread. */
uint64_t thread_starved_ns(pid_t process, pid_t thread);

/* Waits up to five seconds until nobody is connected but the one who asks, nothing runs and all
 * blocks are free; fails the test otherwise. */
void daemon_wait_quiet(const struct daemon *daemon);

/* Submits `count` ids and returns the answer's tokens in ret_ids [capacity]; the request's other
 * fields come from *request. Returns the done event. */
struct agl_event daemon_ask(struct agl_client *client, struct agl_request request,
                            const uint32_t *ids, uint32_t count, uint32_t *ret_ids,
                            uint32_t capacity);

/* Submits without waiting; returns the request's id. */
uint32_t daemon_submit(struct agl_client *client, struct agl_request request, const uint32_t *ids,
                       uint32_t count);

#endif
