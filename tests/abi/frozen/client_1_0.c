/*
 * client_1_0 SOCKET: a whole client of version 1.0, which knows nothing of the project but the
 * layout that was released. It must go on working, as it is, with every later daemon of major 1
 * whose first model is the echo.
 *
 * It asks for all that version 1.0 offers, waiting for the answers in each way that there is, then
 * prints "waiting" and ends with the daemon's EVENT_SHUTDOWN. Exit status: 0 everything was as in
 * 1.0; 1 it was not; 3 the daemon refused, and its words are on stdout.
 *
 * Frozen: not to be edited so that it passes.
 */
#include <linux/futex.h>
#include <math.h>
#include <sched.h>
#include <sys/syscall.h>

#include "support_1_0.h"

enum { REQUESTS = 4, ARENA_BYTES = 16384, OUTPUT_BYTES = 1 << 20 };
static const uint64_t PATIENCE_NS = PATIENCE_MS * 1000000ull;

enum waiting { WAIT_SPINNING, WAIT_BY_FUTEX, WAIT_BY_DESCRIPTOR, WAITINGS };

/* The session; this program has one. */
static int socket_fd, doorbell_fd;
static struct v1_0_geometry geometry;
static uint32_t session_minor;
static const struct v1_0_board *board;
static struct v1_0_client_words *words;
static const struct v1_0_daemon_words *daemon_words;
static struct v1_0_submission *submissions;
static const struct v1_0_event *events;
static uint32_t *arena;
static const uint8_t *output;

static uint32_t submitted;    /* messages written to the submission ring */
static uint32_t taken;        /* messages read from the event ring */
static uint32_t given_back;   /* of these, known to the daemon */
static uint32_t rung;         /* the daemon's sleep word when its doorbell was last rung */
static uint32_t last_request; /* ids are given in a circle over the entries */
static enum waiting waiting;

/* ---- the handshake --------------------------------------------------------------------------- */

static void connect_to(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    socket_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (socket_fd < 0 || connect(socket_fd, (struct sockaddr *)&address, sizeof address) < 0)
        fail("%s: %s", path, strerror(errno));
}

static void send_hello(void)
{
    const struct v1_0_message_hello hello = {
        .header = V1_0_MESSAGE_INIT(V1_0_MESSAGE_HELLO, struct v1_0_message_hello),
        .major = V1_0_LAYOUT_MAJOR,
        .minor = V1_0_LAYOUT_MINOR,
        .geometry = {.submission_slots = 16,
                     .event_slots = 64,
                     .max_requests = REQUESTS,
                     .arena_bytes = ARENA_BYTES,
                     .output_bytes = OUTPUT_BYTES},
        .name = "client-1.0",
    };
    send_packet(socket_fd, &hello, sizeof hello, NULL, 0);
}

static void check_welcome(const struct v1_0_message_welcome *welcome)
{
    expect("major of the daemon", welcome->major, V1_0_LAYOUT_MAJOR);
    expect("minor of the session", welcome->minor, V1_0_LAYOUT_MINOR);
    expect("features", welcome->features, 0);
    expect("submission slots", welcome->geometry.submission_slots, 16);
    expect("event slots", welcome->geometry.event_slots, 64);
    expect("requests", welcome->geometry.max_requests, REQUESTS);
    expect("arena", welcome->geometry.arena_bytes, ARENA_BYTES);
    expect("output arena", welcome->geometry.output_bytes, OUTPUT_BYTES);
    expect("whether the geometry is valid", (uint64_t)v1_0_geometry_is_valid(&welcome->geometry),
           1);
}

static void check_board(void)
{
    expect("magic of the board", board->magic, V1_0_BOARD_MAGIC);
    expect("version of the board", board->version, V1_0_BOARD_VERSION);
    if (board->bytes < sizeof *board || board->model_count < 1)
        fail("the board has %u bytes and %u models", board->bytes, board->model_count);
    expect("state", board->state, V1_0_BOARD_SERVING);
    expect("daemon's process", board->daemon_pid != 0, 1);
    if (strcmp(board->models[0].name, "echo") != 0)
        fail("the first model is %.63s, must be echo", board->models[0].name);
}

static void place_halves(uint8_t *ours, const uint8_t *theirs)
{
    words = (void *)(ours + v1_0_client_half_words(&geometry));
    submissions = (void *)(ours + v1_0_client_half_ring(&geometry));
    arena = (void *)(ours + v1_0_client_half_arena(&geometry));
    daemon_words = (const void *)(theirs + v1_0_daemon_half_words(&geometry));
    events = (const void *)(theirs + v1_0_daemon_half_ring(&geometry));
    output = theirs + v1_0_daemon_half_arena(&geometry);
}

static void shake_hands(void)
{
    union v1_0_message message;
    int fds[V1_0_MESSAGE_WELCOME_FDS], half;
    send_hello();
    receive_packet(socket_fd, &message, V1_0_MESSAGE_WELCOME, sizeof message.welcome, fds,
                   V1_0_MESSAGE_WELCOME_FDS);
    check_welcome(&message.welcome);
    geometry = message.welcome.geometry;
    session_minor = message.welcome.minor;
    const uint8_t *theirs = map_theirs(fds[0], v1_0_daemon_half_bytes(&geometry));
    board = (const void *)map_theirs(fds[1], message.welcome.board_bytes);
    doorbell_fd = fds[2];
    check_board();

    place_halves(make_ours(v1_0_client_half_bytes(&geometry), &half), theirs);
    const struct v1_0_message_attach attach = {
        .header = V1_0_MESSAGE_INIT(V1_0_MESSAGE_ATTACH, struct v1_0_message_attach)};
    send_packet(socket_fd, &attach, sizeof attach, &half, 1);
    receive_packet(socket_fd, &message, V1_0_MESSAGE_READY, sizeof message.ready, NULL, 0);
    close(half);
}

/* ---- the rings ------------------------------------------------------------------------------- */

static void ring_daemon(void)
{
    static const uint64_t one = 1;
    if (sleeper(&daemon_words->sleep, &rung) == V1_0_DOORBELL_FD &&
        write(doorbell_fd, &one, sizeof one) != sizeof one)
        fail("the doorbell: %s", strerror(errno));
}

/* The second line of a slot is garbage unless the submission says that it counts. */
static void submit(const struct v1_0_submission *submission)
{
    struct v1_0_submission *slot = &submissions[submitted % geometry.submission_slots];
    uint32_t used = submitted - __atomic_load_n(&daemon_words->submission_cursor, __ATOMIC_ACQUIRE);
    if (used >= geometry.submission_slots)
        fail("the submission ring: %u of %u slots are not given back", used,
             geometry.submission_slots);
    memset((uint8_t *)slot + 64, 0xa5, sizeof *slot - 64);
    size_t bytes = submission->flags & V1_0_SUBMISSION_WIDE ? sizeof *slot : 64;
    memcpy((uint8_t *)slot + 4, (const uint8_t *)submission + 4, bytes - 4);
    submitted++;
    __atomic_store_n(&slot->seq, submitted, __ATOMIC_RELEASE);
    ring_daemon();
}

static const struct v1_0_event *next_slot(void)
{
    return &events[taken % geometry.event_slots];
}

static int is_event_there(void)
{
    return __atomic_load_n(&next_slot()->seq, __ATOMIC_ACQUIRE) == taken + 1;
}

static void give_back_slots(void)
{
    given_back = taken;
    __atomic_store_n(&words->event_cursor, taken, __ATOMIC_RELEASE);
}

/* Nobody looks at the clock here: a wake-up that does not come is a failure. */
static void sleep_on_futex(void)
{
    const struct timespec patience = {.tv_sec = PATIENCE_MS / 1000};
    uint32_t seen = __atomic_load_n(&next_slot()->seq, __ATOMIC_RELAXED);
    announce(&words->sleep, V1_0_DOORBELL_FUTEX);
    if (!is_event_there() &&
        syscall(SYS_futex, &next_slot()->seq, FUTEX_WAIT, seen, &patience, NULL, 0) < 0 &&
        errno == ETIMEDOUT)
        fail("no wake-up by futex; the event is%s there", is_event_there() ? "" : " not");
    take_announcement_back(&words->sleep);
}

static void read_wake_up(void)
{
    union v1_0_message message;
    ssize_t got = recv(socket_fd, &message, sizeof message, 0);
    if (got == 0)
        fail("the daemon closed the socket");
    expect("size of a wake-up", (uint64_t)got, sizeof message.wake);
    expect("kind of a wake-up", message.header.kind, V1_0_MESSAGE_WAKE);
}

static void sleep_on_descriptor(void)
{
    struct pollfd entry = {.fd = socket_fd, .events = POLLIN};
    announce(&words->sleep, V1_0_DOORBELL_FD);
    if (!is_event_there()) {
        if (poll(&entry, 1, PATIENCE_MS) != 1)
            fail("no wake-up by descriptor; the event is%s there", is_event_there() ? "" : " not");
        read_wake_up();
    }
    take_announcement_back(&words->sleep);
}

static void wait_for_event(void)
{
    uint64_t until_ns = now_ns() + PATIENCE_NS;
    while (!is_event_there()) {
        if (given_back != taken)
            give_back_slots();
        if (waiting == WAIT_BY_FUTEX)
            sleep_on_futex();
        else if (waiting == WAIT_BY_DESCRIPTOR)
            sleep_on_descriptor();
        else
            sched_yield();
        if (now_ns() > until_ns)
            fail("no event comes");
    }
}

static struct v1_0_event next_event(void)
{
    wait_for_event();
    struct v1_0_event event = *next_slot();
    taken++;
    if (taken - given_back >= geometry.event_slots / 4)
        give_back_slots();
    return event;
}

/* ---- requests -------------------------------------------------------------------------------- */

/* An answer as it comes. */
struct answer {
    uint32_t ids[128];
    uint32_t count;
    struct v1_0_event accepted, done;
};

static uint32_t next_request(void)
{
    last_request++;
    return last_request % REQUESTS + last_request * REQUESTS;
}

/* Writes a prompt anywhere in the arena where an id may lie, and asks. */
static uint32_t ask(struct v1_0_submission submission, const uint32_t *prompt, uint32_t count)
{
    submission.request = next_request();
    submission.prompt_offset = last_request % 32 * (uint32_t)sizeof *prompt;
    submission.prompt_tokens = count;
    if (submission.op == 0)
        submission.op = V1_0_SUBMISSION_GENERATE;
    submission.top_p = 1;
    submission.priority = V1_0_PRIORITY_NORMAL;
    memcpy(arena + submission.prompt_offset / sizeof *prompt, prompt, count * sizeof *prompt);
    submit(&submission);
    return submission.request;
}

/* The row of an echo: all certainty on the token that follows. */
static void check_logits(const struct v1_0_event *event, uint32_t id)
{
    uint32_t vocab_size = board->models[0].vocab_size;
    expect("bytes of logits", event->output.bytes, vocab_size * sizeof(float));
    if (event->output.offset > OUTPUT_BYTES - event->output.bytes)
        fail("the logits lie beyond the arena");
    const float *row = (const void *)(output + event->output.offset);
    for (uint32_t i = 0; i < vocab_size; i++)
        if (i == id ? row[i] != 0 : !isinf(row[i]))
            fail("logit %u of token %u is %g", i, id, (double)row[i]);
    __atomic_store_n(&words->output_cursor, event->output.release, __ATOMIC_RELEASE);
}

static void take_tokens(struct answer *answer, const struct v1_0_event *event)
{
    expect("number of the first token", event->index, answer->count);
    if (event->count < 1 || event->count > V1_0_EVENT_TOKENS_MAX ||
        answer->count + event->count > 128)
        fail("%u tokens in an event", event->count);
    for (uint32_t i = 0; i < event->count; i++) {
        expect("log-probability of an echo is 0", event->tokens[i].logprob == 0, 1);
        answer->ids[answer->count++] = event->tokens[i].id;
    }
}

/* Reads events until the request is done. prompt: what the logits should repeat; NULL: none come.
 */
static struct answer read_answer(uint32_t request, const uint32_t *prompt, uint32_t prompt_tokens)
{
    struct answer answer = {.count = 0};
    while (answer.done.kind != V1_0_EVENT_DONE) {
        struct v1_0_event event = next_event();
        expect("request of the event", event.request, request);
        if (event.kind == V1_0_EVENT_ACCEPTED)
            answer.accepted = event;
        else if (event.kind == V1_0_EVENT_TOKENS)
            take_tokens(&answer, &event);
        else if (event.kind == V1_0_EVENT_OUTPUT && prompt)
            check_logits(&event, prompt[answer.count % prompt_tokens]);
        else if (event.kind == V1_0_EVENT_DONE)
            answer.done = event;
        else if (event.kind == V1_0_EVENT_OVERFLOW)
            expect("whether it stood still", event.overflow.parked_ns > 0, 1);
        else
            fail("an event of kind %u", event.kind);
    }
    return answer;
}

static const uint32_t prompt[] = {11, 22, 33, 44, 55};
enum { PROMPT = sizeof prompt / sizeof *prompt };

static void check_echo(const struct answer *answer, uint32_t count, enum v1_0_done_reason reason)
{
    expect("kind of the first event", answer->accepted.kind, V1_0_EVENT_ACCEPTED);
    expect("accepted prompt", answer->accepted.accepted.prompt_tokens, PROMPT);
    expect("reason", answer->done.reason, reason);
    expect("error", (uint64_t)answer->done.done.error, 0);
    expect("tokens", answer->count, count);
    expect("tokens as counted", answer->done.done.generated_tokens, count);
    for (uint32_t i = 0; i < count; i++)
        expect("token of the echo", answer->ids[i], prompt[i % PROMPT]);
}

/* ---- what 1.0 offers ------------------------------------------------------------------------- */

static void one_line_is_enough(void)
{
    for (uint32_t max_tokens = 1; max_tokens <= 40; max_tokens++) {
        waiting = max_tokens % WAITINGS;
        uint32_t id = ask((struct v1_0_submission){.max_tokens = max_tokens}, prompt, PROMPT);
        struct answer answer = read_answer(id, NULL, 0);
        check_echo(&answer, max_tokens, V1_0_DONE_LENGTH);
        expect("prompt", answer.done.done.prompt_tokens, PROMPT);
        expect("time of storing", answer.accepted.accepted.published_ns, 0);
    }
}

static void a_wide_submission_has_its_second_line(void)
{
    const struct v1_0_submission wide = {.flags = V1_0_SUBMISSION_WIDE | V1_0_SUBMISSION_IGNORE_EOS,
                                         .max_tokens = 100,
                                         .temperature = 0.5f,
                                         .seed = 1ull << 63,
                                         .top_k = 3,
                                         .min_p = 0.25f,
                                         .stop_ids = {1, 2, 3, 44},
                                         .stop_count = 4};
    struct answer answer = read_answer(ask(wide, prompt, PROMPT), NULL, 0);
    check_echo(&answer, 3, V1_0_DONE_STOP);
}

static void exact_times_come_on_request(void)
{
    uint64_t before_ns = now_ns();
    struct answer answer =
        read_answer(ask((struct v1_0_submission){.flags = V1_0_SUBMISSION_TIMES, .max_tokens = 2},
                        prompt, PROMPT),
                    NULL, 0);
    const struct v1_0_event_accepted *times = &answer.accepted.accepted;
    check_echo(&answer, 2, V1_0_DONE_LENGTH);
    if (before_ns > times->taken_ns || times->taken_ns > times->published_ns ||
        times->published_ns > now_ns() || answer.done.done.done_ns < times->taken_ns)
        fail("the times do not follow each other");
}

static void logits_come_before_their_tokens(void)
{
    struct answer answer =
        read_answer(ask((struct v1_0_submission){.flags = V1_0_SUBMISSION_LOGITS, .max_tokens = 9},
                        prompt, PROMPT),
                    prompt, PROMPT);
    check_echo(&answer, 9, V1_0_DONE_LENGTH);
}

static void a_kept_sequence_goes_on_until_it_is_given_up(void)
{
    struct v1_0_submission keep = {.flags = V1_0_SUBMISSION_KEEP, .max_tokens = 4};
    uint32_t id = ask(keep, prompt, PROMPT);
    struct answer answer = read_answer(id, NULL, 0);
    check_echo(&answer, 4, V1_0_DONE_LENGTH);

    keep.op = V1_0_SUBMISSION_EXTEND;
    keep.parent = id;
    id = ask(keep, prompt, PROMPT);
    answer = read_answer(id, NULL, 0);
    check_echo(&answer, 4, V1_0_DONE_LENGTH);
    expect("prompt with its history", answer.done.done.prompt_tokens, PROMPT + 4 + PROMPT);
    expect("whether history needed no computing", answer.done.done.cached_tokens > 0, 1);

    submit(&(struct v1_0_submission){.op = V1_0_SUBMISSION_DETACH, .request = id});
    keep.parent = id;
    answer = read_answer(ask(keep, prompt, PROMPT), NULL, 0);
    expect("reason without a parent", answer.done.reason, V1_0_DONE_REFUSED);
    expect("error without a parent", (uint64_t)-answer.done.done.error, ENOENT);
}

/* It cannot end before: the ring has no room for so many tokens, and none are read. */
static void a_cancelled_request_ends_early(void)
{
    uint32_t id = ask((struct v1_0_submission){.max_tokens = 5000}, prompt, PROMPT);
    struct v1_0_event event = next_event();
    expect("kind of the first event", event.kind, V1_0_EVENT_ACCEPTED);
    submit(&(struct v1_0_submission){
        .op = V1_0_SUBMISSION_SET_PRIORITY, .priority = V1_0_PRIORITY_HIGH, .request = id});
    submit(&(struct v1_0_submission){.op = V1_0_SUBMISSION_CANCEL, .request = id});
    do {
        event = next_event();
        expect("request of the event", event.request, id);
        if (event.kind == V1_0_EVENT_OVERFLOW)
            expect("whether it stood still", event.overflow.parked_ns > 0, 1);
    } while (event.kind != V1_0_EVENT_DONE);
    expect("reason of a cancelled one", event.reason, V1_0_DONE_CANCELLED);
}

static void what_cannot_be_is_refused_and_nothing_else_suffers(void)
{
    const uint32_t unknown[] = {board->models[0].vocab_size};
    struct answer answer =
        read_answer(ask((struct v1_0_submission){.max_tokens = 1}, unknown, 1), NULL, 0);
    expect("reason of an unknown id", answer.done.reason, V1_0_DONE_REFUSED);
    expect("error of an unknown id", (uint64_t)-answer.done.done.error, EINVAL);
    const struct v1_0_submission late = {.max_tokens = 1, .deadline_ns = 1};
    answer = read_answer(ask(late, prompt, PROMPT), NULL, 0);
    expect("reason of a late one", answer.done.reason, V1_0_DONE_DEADLINE);
}

static void the_daemon_says_when_it_stops(void)
{
    printf("session of version 1.%u: all as in 1.0; waiting\n", session_minor);
    fflush(stdout);
    waiting = WAIT_BY_DESCRIPTOR;
    struct v1_0_event event = next_event();
    expect("kind of the last event", event.kind, V1_0_EVENT_SHUTDOWN);
    expect("request of the last event", event.request, 0);
    expect("error of the last event", (uint64_t)-event.shutdown.error, ESHUTDOWN);
}

int main(int argc, char **argv)
{
    if (argc != 2)
        fail("Usage: client_1_0 SOCKET");
    connect_to(argv[1]);
    shake_hands();
    one_line_is_enough();
    for (waiting = 0; waiting < WAITINGS; waiting++) {
        a_wide_submission_has_its_second_line();
        exact_times_come_on_request();
        logits_come_before_their_tokens();
        a_kept_sequence_goes_on_until_it_is_given_up();
        a_cancelled_request_ends_early();
        what_cannot_be_is_refused_and_nothing_else_suffers();
    }
    the_daemon_says_when_it_stops();
    return 0;
}
