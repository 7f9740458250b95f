/*
 * daemon_1_0 SOCKET: the daemon's side of version 1.0, which knows nothing of the project but the
 * layout that was released. Every later library of major 1 must go on working with it, as it is.
 *
 * It serves one client with an echo of each prompt, as strict as 1.0 was: whatever 1.0 did not know
 * ends it with status 1. SIGTERM ends the session with EVENT_SHUTDOWN. Exit status: 0 everything
 * was as in 1.0; 3 the client speaks another major and was refused.
 *
 * Frozen: not to be edited so that it passes.
 */
#include <limits.h>
#include <linux/futex.h>
#include <math.h>
#include <sched.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>

#include "support_1_0.h"

enum { VOCAB_SIZE = 1000, CONTEXT_TOKENS = 8192, PROMPT_MAX = 512, ROW_BYTES = 4096, TURN_MS = 50 };
static_assert((int)ROW_BYTES >= (int)VOCAB_SIZE * 4, "a row of logits");

enum state { STATE_FREE = 0, STATE_RUNNING, STATE_KEPT };

struct request {
    enum state state;
    struct v1_0_submission submission;
    uint32_t prompt[PROMPT_MAX];
    uint32_t history; /* tokens of the sequence before this prompt */
    uint32_t given;
    uint64_t taken_ns;
};

/* The session; this program has one. */
static int socket_fd, doorbell_fd;
static struct v1_0_geometry geometry;
static struct v1_0_board *board;
static struct v1_0_daemon_words *words;
static struct v1_0_event *events;
static uint8_t *output;
static const struct v1_0_client_words *client_words;
static const struct v1_0_submission *submissions;
static const uint8_t *arena;
static struct request requests[V1_0_GEOMETRY_REQUESTS_MAX];

static uint32_t taken;        /* messages read from the submission ring */
static uint32_t told;         /* messages written to the event ring */
static uint32_t rung;         /* the client's sleep word when it was last woken by descriptor */
static uint64_t output_taken; /* bytes of the output arena, free-running */
static volatile sig_atomic_t is_stopping;

static void stop(int number)
{
    is_stopping = number;
}

/* ---- the handshake --------------------------------------------------------------------------- */

static int accept_one(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    int listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (listen_fd < 0 || bind(listen_fd, (struct sockaddr *)&address, sizeof address) < 0 ||
        listen(listen_fd, 1) < 0)
        fail("%s: %s", path, strerror(errno));
    struct pollfd entry = {.fd = listen_fd, .events = POLLIN};
    if (poll(&entry, 1, PATIENCE_MS) != 1)
        fail("nobody comes");
    int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0)
        fail("accept: %s", strerror(errno));
    close(listen_fd);
    unlink(path);
    return fd;
}

/* Before anything else that a hello says: another major may have another hello. */
static void refuse_another_major(void)
{
    struct v1_0_message_error error = {
        .header = V1_0_MESSAGE_INIT(V1_0_MESSAGE_ERROR, struct v1_0_message_error),
        .error = -EPROTONOSUPPORT,
        .major = V1_0_LAYOUT_MAJOR,
        .minor = V1_0_LAYOUT_MINOR};
    struct v1_0_message_hello hello = {.major = 0};
    if (recv(socket_fd, &hello, sizeof hello, MSG_PEEK) < 12)
        fail("no hello comes");
    printf("client %.31s speaks version %u.%u\n", hello.name, hello.major, hello.minor);
    fflush(stdout);
    if (hello.major == V1_0_LAYOUT_MAJOR)
        return;
    snprintf(error.text, sizeof error.text,
             "the client speaks version %u.%u, the daemon 1.0: update the %s", hello.major,
             hello.minor, hello.major < V1_0_LAYOUT_MAJOR ? "client's library" : "daemon");
    /* With an unread packet the end would be a reset, which overtakes the refusal. */
    recv(socket_fd, &hello, sizeof hello, 0);
    send_packet(socket_fd, &error, sizeof error, NULL, 0);
    exit(EXIT_REFUSED);
}

static void take_hello(void)
{
    union v1_0_message message;
    const struct v1_0_message_hello *hello = &message.hello;
    refuse_another_major();
    receive_packet(socket_fd, &message, V1_0_MESSAGE_HELLO, sizeof *hello, NULL, 0);
    expect("features that are asked for", hello->features, 0);
    expect("wished stagger", hello->geometry.stagger, 0);
    for (size_t i = 0; i < sizeof hello->reserved / sizeof *hello->reserved; i++)
        expect("a reserved field of the hello", hello->reserved[i], 0);
    geometry = hello->geometry;
    geometry.stagger = 7;
    expect("whether the geometry is valid", (uint64_t)v1_0_geometry_is_valid(&geometry), 1);
}

static void fill_board(void)
{
    struct v1_0_board_model *model = &board->models[0];
    board->magic = V1_0_BOARD_MAGIC;
    board->version = V1_0_BOARD_VERSION;
    board->bytes = sizeof *board;
    board->daemon_pid = (uint32_t)getpid();
    strcpy(board->instance, "frozen");
    strcpy(board->daemon_version, "0.1.0");
    strcpy(board->backend, "none");
    board->start_ns = board->heartbeat_ns = now_ns();
    board->state = V1_0_BOARD_SERVING;
    board->model_count = 1;
    strcpy(model->name, "echo");
    strcpy(model->architecture, "echo");
    model->vocab_size = VOCAB_SIZE;
    model->context_tokens = CONTEXT_TOKENS;
}

static void welcome(void)
{
    uint64_t board_bytes = v1_0_layout_pages(sizeof *board);
    int fds[V1_0_MESSAGE_WELCOME_FDS];
    uint8_t *ours = make_ours(v1_0_daemon_half_bytes(&geometry), &fds[0]);
    words = (void *)(ours + v1_0_daemon_half_words(&geometry));
    events = (void *)(ours + v1_0_daemon_half_ring(&geometry));
    output = ours + v1_0_daemon_half_arena(&geometry);
    board = (void *)make_ours(board_bytes, &fds[1]);
    fill_board();
    fds[2] = doorbell_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    const struct v1_0_message_welcome packet = {
        .header = V1_0_MESSAGE_INIT(V1_0_MESSAGE_WELCOME, struct v1_0_message_welcome),
        .major = V1_0_LAYOUT_MAJOR,
        .minor = V1_0_LAYOUT_MINOR, /* the smaller of both: no minor is smaller */
        .geometry = geometry,
        .session = 1,
        .board_bytes = (uint32_t)board_bytes};
    send_packet(socket_fd, &packet, sizeof packet, fds, V1_0_MESSAGE_WELCOME_FDS);
    close(fds[0]);
    close(fds[1]);
}

static void take_attach(void)
{
    static const struct v1_0_message_ready ready = {
        .header = V1_0_MESSAGE_INIT(V1_0_MESSAGE_READY, struct v1_0_message_ready)};
    union v1_0_message message;
    int fd;
    receive_packet(socket_fd, &message, V1_0_MESSAGE_ATTACH, sizeof message.attach, &fd, 1);
    expect("a reserved field of the attach",
           message.attach.reserved[0] | message.attach.reserved[1], 0);
    const uint8_t *theirs = map_theirs(fd, v1_0_client_half_bytes(&geometry));
    client_words = (const void *)(theirs + v1_0_client_half_words(&geometry));
    submissions = (const void *)(theirs + v1_0_client_half_ring(&geometry));
    arena = theirs + v1_0_client_half_arena(&geometry);
    send_packet(socket_fd, &ready, sizeof ready, NULL, 0);
}

/* ---- events ---------------------------------------------------------------------------------- */

/* Two places are left for what ends a request or the session. */
static int has_room(uint32_t wanted)
{
    uint32_t cursor = __atomic_load_n(&client_words->event_cursor, __ATOMIC_ACQUIRE);
    if (told - cursor > geometry.event_slots)
        fail("the event cursor is %u of %u", cursor, told);
    return geometry.event_slots - (told - cursor) >= wanted + 2;
}

static void wake(const uint32_t *slot_word)
{
    static const struct v1_0_message_wake packet = {
        .header = V1_0_MESSAGE_INIT(V1_0_MESSAGE_WAKE, struct v1_0_message_wake)};
    switch (sleeper(&client_words->sleep, &rung)) {
    case V1_0_DOORBELL_FUTEX:
        syscall(SYS_futex, slot_word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
        break;
    case V1_0_DOORBELL_FD:
        send(socket_fd, &packet, sizeof packet, MSG_NOSIGNAL | MSG_DONTWAIT);
        break;
    default:
        break;
    }
}

/* has_room() said so. */
static void tell(const struct v1_0_event *event)
{
    struct v1_0_event *slot = &events[told % geometry.event_slots];
    memcpy((uint8_t *)slot + 4, (const uint8_t *)event + 4, sizeof *slot - 4);
    told++;
    __atomic_store_n(&slot->seq, told, __ATOMIC_RELEASE);
    wake(&slot->seq);
}

static void tell_done(const struct request *request, enum v1_0_done_reason reason, int error)
{
    tell(&(struct v1_0_event){
        .kind = V1_0_EVENT_DONE,
        .reason = (uint8_t)reason,
        .request = request->submission.request,
        .index = request->given,
        .done = {.prompt_tokens = request->history + request->submission.prompt_tokens,
                 .cached_tokens = request->history,
                 .generated_tokens = request->given,
                 .error = error,
                 .taken_ns = request->taken_ns,
                 .done_ns = now_ns()}});
}

static void end_request(struct request *request, enum v1_0_done_reason reason)
{
    int is_kept = request->submission.flags & V1_0_SUBMISSION_KEEP;
    request->state = is_kept ? STATE_KEPT : STATE_FREE;
    tell_done(request, reason, 0);
}

/* ---- generating ------------------------------------------------------------------------------ */

static uint32_t next_id(const struct request *request)
{
    return request->prompt[request->given % request->submission.prompt_tokens];
}

static int is_stop(const struct request *request)
{
    const struct v1_0_submission *submission = &request->submission;
    for (uint32_t i = 0; i < submission->stop_count; i++)
        if (submission->stop_ids[i] == next_id(request))
            return 1;
    return 0;
}

static int has_output_room(void)
{
    uint64_t cursor = __atomic_load_n(&client_words->output_cursor, __ATOMIC_ACQUIRE);
    if (output_taken - cursor > geometry.output_bytes)
        fail("the output cursor is %llu of %llu", (unsigned long long)cursor,
             (unsigned long long)output_taken);
    return output_taken + ROW_BYTES - cursor <= geometry.output_bytes;
}

static void tell_logits(const struct request *request)
{
    uint32_t offset = (uint32_t)(output_taken % geometry.output_bytes);
    float *row = (float *)(void *)(output + offset);
    for (uint32_t i = 0; i < VOCAB_SIZE; i++)
        row[i] = i == next_id(request) ? 0 : -INFINITY;
    output_taken += ROW_BYTES;
    tell(&(struct v1_0_event){
        .kind = V1_0_EVENT_OUTPUT,
        .request = request->submission.request,
        .index = request->given,
        .output = {.offset = offset, .bytes = VOCAB_SIZE * 4, .release = output_taken}});
}

/* As many tokens as an event holds; one, if logits go before it. */
static void tell_tokens(struct request *request, uint32_t most)
{
    struct v1_0_event event = {
        .kind = V1_0_EVENT_TOKENS, .request = request->submission.request, .index = request->given};
    while (event.count < most && request->given < request->submission.max_tokens &&
           !is_stop(request)) {
        event.tokens[event.count++] = (struct v1_0_event_token){.id = next_id(request)};
        request->given++;
    }
    if (event.count)
        tell(&event);
}

/* Whether anything happened. */
static int generate(struct request *request)
{
    int has_logits = request->submission.flags & V1_0_SUBMISSION_LOGITS;
    if (!has_room(2) || (has_logits && !has_output_room()))
        return 0;
    if (is_stop(request)) {
        end_request(request, V1_0_DONE_STOP);
    } else if (request->given == request->submission.max_tokens) {
        end_request(request, V1_0_DONE_LENGTH);
    } else {
        if (has_logits)
            tell_logits(request);
        tell_tokens(request, has_logits ? 1 : V1_0_EVENT_TOKENS_MAX);
    }
    return 1;
}

/* ---- submissions ----------------------------------------------------------------------------- */

static struct request *entry_of(uint32_t id)
{
    return &requests[id & (geometry.max_requests - 1)];
}

static struct request *find(uint32_t id, enum state state)
{
    struct request *request = entry_of(id);
    return request->state == state && request->submission.request == id ? request : NULL;
}

/* What 1.0 demanded of a generation. */
static void check_generation(const struct v1_0_submission *submission)
{
    expect("flags that 1.0 does not know", submission->flags & ~(uint32_t)V1_0_SUBMISSION_FLAGS_ALL,
           0);
    for (size_t i = 0; i < sizeof submission->reserved / sizeof *submission->reserved; i++)
        expect("a reserved field of a submission", submission->reserved[i], 0);
    expect("records in the arena", submission->extra_offset | submission->extra_bytes, 0);
    expect("whether there are penalties",
           submission->repetition_penalty != 0 || submission->presence_penalty != 0 ||
               submission->frequency_penalty != 0,
           0);
    expect("whether top_p makes sense", submission->top_p > 0 && submission->top_p <= 1, 1);
    if (submission->priority > V1_0_PRIORITY_REALTIME ||
        submission->stop_count > V1_0_SUBMISSION_STOP_IDS || submission->max_tokens == 0 ||
        submission->prompt_offset % 4 || submission->prompt_offset > geometry.arena_bytes ||
        submission->prompt_tokens > (geometry.arena_bytes - submission->prompt_offset) / 4 ||
        submission->prompt_tokens > PROMPT_MAX || submission->prompt_tokens == 0)
        fail("a submission that makes no sense");
}

/* Whether all ids are ones; the prompt is copied. */
static int take_prompt(struct request *request)
{
    uint32_t highest = 0;
    memcpy(request->prompt, arena + request->submission.prompt_offset,
           request->submission.prompt_tokens * sizeof *request->prompt);
    for (uint32_t i = 0; i < request->submission.prompt_tokens; i++)
        highest = request->prompt[i] > highest ? request->prompt[i] : highest;
    return highest < VOCAB_SIZE;
}

static void begin(const struct v1_0_submission *submission, struct request *parent)
{
    struct request *request = entry_of(submission->request);
    struct request fresh = {.submission = *submission, .taken_ns = now_ns()};
    if (request->state != STATE_FREE)
        fail("request %u: its entry is in use", submission->request);
    if (parent)
        fresh.history = parent->history + parent->submission.prompt_tokens + parent->given;
    if (submission->op == V1_0_SUBMISSION_EXTEND && !parent) {
        tell_done(&fresh, V1_0_DONE_REFUSED, -ENOENT);
    } else if (submission->deadline_ns && submission->deadline_ns <= fresh.taken_ns) {
        tell_done(&fresh, V1_0_DONE_DEADLINE, 0);
    } else if (submission->model != 0 || !take_prompt(&fresh)) {
        tell_done(&fresh, V1_0_DONE_REFUSED, -EINVAL);
    } else {
        int is_timed = submission->flags & V1_0_SUBMISSION_TIMES;
        fresh.state = STATE_RUNNING;
        *request = fresh;
        if (parent)
            parent->state = STATE_FREE;
        tell(&(struct v1_0_event){.kind = V1_0_EVENT_ACCEPTED,
                                  .request = submission->request,
                                  .accepted = {.taken_ns = fresh.taken_ns,
                                               .prompt_tokens = submission->prompt_tokens,
                                               .published_ns = is_timed ? now_ns() : 0}});
    }
}

/* An operation on a request that is there already: its id, and a priority, are all it may have. */
static void change(const struct v1_0_submission *submission)
{
    struct v1_0_submission allowed = {
        .seq = submission->seq, .op = submission->op, .request = submission->request};
    if (submission->op == V1_0_SUBMISSION_SET_PRIORITY)
        allowed.priority = submission->priority;
    if (memcmp(submission, &allowed, sizeof allowed) != 0)
        fail("operation %u has a field that it does not use", submission->op);
    struct request *running = find(submission->request, STATE_RUNNING);
    struct request *kept = find(submission->request, STATE_KEPT);
    if (submission->op == V1_0_SUBMISSION_CANCEL && running)
        end_request(running, V1_0_DONE_CANCELLED);
    if (submission->op == V1_0_SUBMISSION_DETACH && kept)
        kept->state = STATE_FREE;
}

static int is_submission_there(void)
{
    const uint32_t *seq = &submissions[taken % geometry.submission_slots].seq;
    return __atomic_load_n(seq, __ATOMIC_ACQUIRE) == taken + 1;
}

static int take_submission(void)
{
    struct v1_0_submission submission = {.seq = 0};
    const struct v1_0_submission *slot = &submissions[taken % geometry.submission_slots];
    if (!is_submission_there() || !has_room(2))
        return 0;
    memcpy(&submission, slot, 64);
    if (submission.flags & V1_0_SUBMISSION_WIDE)
        memcpy(&submission, slot, sizeof submission);
    taken++;
    __atomic_store_n(&words->submission_cursor, taken, __ATOMIC_RELEASE);
    if (submission.request == 0)
        fail("a request of id 0");
    if (submission.op == V1_0_SUBMISSION_GENERATE || submission.op == V1_0_SUBMISSION_EXTEND) {
        check_generation(&submission);
        begin(&submission,
              submission.op == V1_0_SUBMISSION_EXTEND ? find(submission.parent, STATE_KEPT) : NULL);
    } else if (submission.op >= V1_0_SUBMISSION_CANCEL && submission.op <= V1_0_SUBMISSION_DETACH) {
        change(&submission);
    } else {
        fail("an operation of number %u", submission.op);
    }
    return 1;
}

/* ---- serving --------------------------------------------------------------------------------- */

/* Until the doorbell rings, the client leaves, or a moment has passed. 1: it has left. */
static int sleep_a_little(void)
{
    struct pollfd entries[] = {{.fd = doorbell_fd, .events = POLLIN},
                               {.fd = socket_fd, .events = POLLIN | POLLRDHUP}};
    uint64_t count;
    announce(&words->sleep, V1_0_DOORBELL_FD);
    if (!is_submission_there())
        poll(entries, 2, TURN_MS);
    take_announcement_back(&words->sleep);
    if (read(doorbell_fd, &count, sizeof count) < 0 && errno != EAGAIN)
        fail("the doorbell: %s", strerror(errno));
    if (entries[1].revents & POLLIN && recv(socket_fd, &count, sizeof count, MSG_DONTWAIT) > 0)
        fail("the client said something after the handshake");
    return entries[1].revents != 0;
}

/* One turn of the loop: whether anything happened. */
static int turn(void)
{
    int is_busy = take_submission();
    for (uint32_t i = 0; i < geometry.max_requests; i++)
        if (requests[i].state == STATE_RUNNING)
            is_busy |= generate(&requests[i]);
    __atomic_store_n(&board->heartbeat_ns, now_ns(), __ATOMIC_RELAXED);
    return is_busy;
}

int main(int argc, char **argv)
{
    if (argc != 2)
        fail("Usage: daemon_1_0 SOCKET");
    sigaction(SIGTERM, &(struct sigaction){.sa_handler = stop}, NULL);
    socket_fd = accept_one(argv[1]);
    take_hello();
    welcome();
    take_attach();
    int has_left = 0;
    while (!has_left && !is_stopping)
        has_left = !turn() && sleep_a_little();
    if (!has_left)
        tell(&(struct v1_0_event){.kind = V1_0_EVENT_SHUTDOWN, .shutdown = {.error = -ESHUTDOWN}});
    printf("%u submissions, %u events, all as in 1.0\n", taken, told);
    return 0;
}
