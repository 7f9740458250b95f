/*
 * The control thread: accepts clients, watches them and the engine, keeps the board's copy fresh,
 * feeds systemd's watchdog, and stops the daemon on a signal. It never touches a session that the
 * engine has.
 */
#ifndef AGL_DAEMON_CONTROL_H
#define AGL_DAEMON_CONTROL_H

#include "daemon/access.h"
#include "daemon/board.h"
#include "daemon/config.h"
#include "daemon/engine.h"
#include "model/failure.h"

struct control;

/* All of them must outlive the control. */
struct control_options {
    const struct config *config;
    const struct access_list *access; /* copied */
    struct engine *engine;            /* started */
    struct board_owner *board;
    int signal_fd; /* a signalfd of SIGTERM, SIGINT, SIGHUP; the caller's */
};

/* Begins to listen: clients may connect when it returns. -EADDRINUSE, -EACCES, ... the socket;
 * -ENOSYS, -EPERM: no io_uring. The thread that calls it must call all the others. */
int control_open(struct control **ret_control, const struct control_options *options,
                 struct failure *failure);

/* Where clients find it. */
const char *control_socket_path(const struct control *control);

/* Serves until the daemon is to stop. 0: a signal asked for it, and every request has ended or was
 * told; else a negative errno: the engine's, or the event loop's. */
int control_run(struct control *control);

/* One turn of control_run(): waits for at most wait_ns. 1: go on; 0 and errors as above. */
int control_turn(struct control *control, uint64_t wait_ns);

/* Closes every connection and removes the socket. The engine must have been stopped, if any
 * session may be attached. NULL does nothing. */
void control_close(struct control *control);

#endif
