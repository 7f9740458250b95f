#include "client/private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "client/deadline.h"
#include "client/error.h"
#include "client/packet.h"

#define DEFAULT_SOCKET_PATH "/run/autoglm/autoglm.sock"

enum {
    DEFAULT_REQUESTS = 16,
    DEFAULT_PROMPT_TOKENS = 32768,
    DEFAULT_SPIN_NS = 50000,
    EVENT_SLOTS_LEAST = 64,
    SUBMISSION_SLOTS_LEAST = 16,
    BOARD_BYTES_MAX = 1 << 20,     /* larger boards are not believed */
    SPARE_HALF_BYTES = 256 * 1024, /* a daemon may grant so much more than was wished for */
    /* The size of struct agl_options in 0.1, its first release. Later fields come behind. */
    OPTIONS_BYTES_FIRST = offsetof(struct agl_options, spin_ns) + sizeof(uint64_t),
};

/* ---- options --------------------------------------------------------------------------------- */

int client_read_sized(void *ret_known, size_t known_bytes, size_t first_bytes, const void *given,
                      const char *name)
{
    size_t size_bytes;
    memcpy(&size_bytes, given, sizeof size_bytes);
    if (size_bytes < first_bytes)
        return error_set(-EINVAL, "%s.size_bytes is %zu, must be at least %zu", name, size_bytes,
                         first_bytes);
    for (size_t i = known_bytes; i < size_bytes; i++)
        if (((const uint8_t *)given)[i])
            return error_set(-EINVAL,
                             "%s has a field set that version %s does not know: update the library",
                             name, agl_version());
    memcpy(ret_known, given, size_bytes < known_bytes ? size_bytes : known_bytes);
    return 0;
}

static int check_limit(const char *field, uint64_t value, uint64_t limit)
{
    if (value > limit)
        return error_set(-EINVAL, "options.%s is %llu, must be at most %llu", field,
                         (unsigned long long)value, (unsigned long long)limit);
    return 0;
}

/* Of the machine, not of this thread's affinity: the daemon runs on another one than a pinned
 * client. */
static long processors(void)
{
    return sysconf(_SC_NPROCESSORS_ONLN);
}

/* Copies the caller's options with every default filled in. */
static int read_options(struct agl_options *ret_options, const struct agl_options *options)
{
    struct agl_options filled = AGL_OPTIONS_INIT;
    if (options) {
        int err =
            client_read_sized(&filled, sizeof filled, OPTIONS_BYTES_FIRST, options, "options");
        if (err < 0)
            return err;
    }
    if (!filled.socket_path)
        filled.socket_path = secure_getenv("AUTOGLM_SOCKET");
    if (!filled.socket_path || !*filled.socket_path)
        filled.socket_path = DEFAULT_SOCKET_PATH;
    if (!filled.name)
        filled.name = program_invocation_short_name;
    if (!filled.timeout_ns)
        filled.timeout_ns = 5ULL * NS_PER_S;
    if (!filled.max_requests)
        filled.max_requests = DEFAULT_REQUESTS;
    if (!filled.prompt_tokens)
        filled.prompt_tokens = DEFAULT_PROMPT_TOKENS;
    if (!filled.spin_ns && processors() > 1)
        filled.spin_ns = DEFAULT_SPIN_NS;

    int err = check_limit("max_requests", filled.max_requests, GEOMETRY_REQUESTS_MAX);
    if (err == 0)
        err = check_limit("prompt_tokens", filled.prompt_tokens,
                          GEOMETRY_ARENA_BYTES_MAX / sizeof(uint32_t));
    if (err == 0)
        err = check_limit("output_bytes", filled.output_bytes, GEOMETRY_OUTPUT_BYTES_MAX);
    if (err == 0)
        err = check_limit("wait_mode", filled.wait_mode, AGL_WAIT_SLEEP);
    if (err == 0)
        *ret_options = filled;
    return err;
}

static uint32_t power_of_two_from(uint32_t least)
{
    uint32_t n = 1;
    while (n < least)
        n *= 2;
    return n;
}

static uint32_t at_least(uint32_t n, uint32_t least)
{
    return n < least ? least : n;
}

static struct geometry wished_geometry(const struct agl_options *options)
{
    /* At least two: continuing a kept request needs an entry beside the one it takes over. */
    uint32_t max_requests = power_of_two_from(at_least(options->max_requests, 2));
    return (struct geometry){
        .submission_slots = at_least(2 * max_requests, SUBMISSION_SLOTS_LEAST),
        .event_slots = at_least(4 * max_requests, EVENT_SLOTS_LEAST),
        .max_requests = max_requests,
        .arena_bytes = (uint32_t)layout_pages((uint64_t)options->prompt_tokens * sizeof(uint32_t)),
        .output_bytes = (uint32_t)layout_pages(options->output_bytes),
    };
}

/* A connect() to a full backlog waits as long as SO_SNDTIMEO says and then fails with EAGAIN. */
static int connect_within(int socket_fd, const struct sockaddr_un *address, uint64_t deadline_ns)
{
    for (;;) {
        uint64_t left_us = deadline_left_ns(deadline_ns) / 1000;
        if (left_us == 0)
            return -ETIMEDOUT;
        struct timeval left = {.tv_sec = (time_t)(left_us / 1000000),
                               .tv_usec = (suseconds_t)(left_us % 1000000)};
        if (setsockopt(socket_fd, SOL_SOCKET, SO_SNDTIMEO, &left, sizeof left) < 0)
            return -errno;
        if (connect(socket_fd, (const struct sockaddr *)address, sizeof *address) == 0)
            return 0;
        if (errno != EINTR && errno != EAGAIN)
            return -errno;
    }
}

static int open_socket(int *ret_fd, const char *path, uint64_t deadline_ns)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t length = strlen(path);
    if (length >= sizeof address.sun_path)
        return error_set(-EINVAL, "socket path %s: longer than %zu bytes", path,
                         sizeof address.sun_path - 1);
    memcpy(address.sun_path, path, length);

    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return error_set(-errno, "cannot make a socket: %s", strerror(errno));
    int err = connect_within(fd, &address, deadline_ns);
    if (err < 0) {
        close(fd);
        return error_set(err, "cannot connect to %s: %s", path, strerror(-err));
    }
    *ret_fd = fd;
    return 0;
}

/* ---- handshake ------------------------------------------------------------------------------- */

static int send_hello(int socket_fd, const struct geometry *wished, const char *name,
                      uint64_t deadline_ns)
{
    struct message_hello hello = {
        .header = MESSAGE_INIT(MESSAGE_HELLO, struct message_hello),
        .major = LAYOUT_MAJOR,
        .minor = LAYOUT_MINOR,
        .geometry = *wished,
    };
    size_t length = strlen(name);
    memcpy(hello.name, name, length < sizeof hello.name ? length : sizeof hello.name - 1);
    return packet_send(socket_fd, &hello, sizeof hello, -1, deadline_ns);
}

/* The daemon may give a little more than was wished for (its minimum), never much more memory. */
static int check_granted(const struct geometry *granted, const struct geometry *wished)
{
    if (!geometry_is_valid(granted))
        return error_set(-EPROTO, "the daemon granted sizes that no session can have");
    if (client_half_bytes(granted) > client_half_bytes(wished) + SPARE_HALF_BYTES ||
        daemon_half_bytes(granted) > daemon_half_bytes(wished) + SPARE_HALF_BYTES)
        return error_set(-EPROTO,
                         "the daemon granted %llu + %llu bytes where %llu + %llu were "
                         "wished for",
                         (unsigned long long)client_half_bytes(granted),
                         (unsigned long long)daemon_half_bytes(granted),
                         (unsigned long long)client_half_bytes(wished),
                         (unsigned long long)daemon_half_bytes(wished));
    return 0;
}

static int check_welcome(const struct message_welcome *welcome, const struct geometry *wished)
{
    if (welcome->major != LAYOUT_MAJOR)
        return error_set(-EPROTONOSUPPORT,
                         "the daemon speaks version %u.%u, this library %d.%d: update the %s",
                         welcome->major, welcome->minor, LAYOUT_MAJOR, LAYOUT_MINOR,
                         welcome->major < LAYOUT_MAJOR ? "daemon" : "library");
    if (welcome->minor > LAYOUT_MINOR)
        return error_set(-EPROTO, "the daemon chose version %u.%u, this library offered %d.%d",
                         welcome->major, welcome->minor, LAYOUT_MAJOR, LAYOUT_MINOR);
    if (welcome->features != 0)
        return error_set(-EPROTO, "the daemon chose features %#x, none was offered",
                         welcome->features);
    if (welcome->board_bytes < BOARD_BYTES_FIRST || welcome->board_bytes > BOARD_BYTES_MAX)
        return error_set(-EPROTO, "the daemon's board has %u bytes, must be %d to %d",
                         welcome->board_bytes, BOARD_BYTES_FIRST, BOARD_BYTES_MAX);
    return check_granted(&welcome->geometry, wished);
}

/* Takes the descriptor out of *fd on success. */
static int map_peer(struct region *ret_region, int *fd, uint64_t bytes, const char *what)
{
    const char *why = NULL;
    int err = region_map_peer(ret_region, *fd, bytes, &why);
    if (err < 0)
        return error_set(err, "%s: %s", what, why ? why : strerror(-err));
    *fd = -1;
    return 0;
}

/* What an eventfd looks like: an inode of no type. Writing to a socket or pipe that a strange
 * daemon gives us could kill us with SIGPIPE, and writing to an eventfd whose counter is at its end
 * would wait for ever if it blocked. */
static int check_doorbell(int fd)
{
    struct stat status;
    if (fstat(fd, &status) < 0)
        return error_set(-errno, "doorbell: %s", strerror(errno));
    if ((status.st_mode & S_IFMT) != 0)
        return error_set(-EPROTO, "doorbell: not an eventfd");
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0)
        return error_set(-errno, "doorbell: %s", strerror(errno));
    if (!(flags & O_NONBLOCK))
        return error_set(-EPROTO, "doorbell: a write to it may block");
    return 0;
}

/* The welcome's three descriptors become regions and the doorbell. */
static int take_welcome(struct agl_client *client, struct packet *packet,
                        const struct geometry *wished)
{
    const struct message_welcome *welcome = &packet->message.welcome;
    int err = check_welcome(welcome, wished);
    if (err < 0)
        return err;
    client->geometry = welcome->geometry;
    err = map_peer(&client->daemon_half, &packet->fds[0], daemon_half_bytes(&client->geometry),
                   "the daemon's half");
    if (err < 0)
        return err;
    err = map_peer(&client->board, &packet->fds[1], welcome->board_bytes, "the daemon's board");
    if (err < 0)
        return err;
    const struct board *board = (const void *)client->board.base;
    err = board_check(board, &client->model_count);
    if (err < 0)
        return err;
    for (uint32_t i = 0; i < client->model_count; i++)
        client->vocab_sizes[i] = board->models[i].vocab_size;
    err = check_doorbell(packet->fds[2]);
    if (err < 0)
        return err;
    client->doorbell_fd = packet->fds[2];
    packet->fds[2] = -1;
    return 0;
}

static int attach(struct agl_client *client, uint64_t deadline_ns)
{
    int err =
        region_create(&client->client_half, "autoglm-client", client_half_bytes(&client->geometry));
    if (err < 0)
        return error_set(err, "cannot make %llu bytes of shared memory: %s",
                         (unsigned long long)client_half_bytes(&client->geometry), strerror(-err));

    const struct message_attach message = {.header =
                                               MESSAGE_INIT(MESSAGE_ATTACH, struct message_attach)};
    err = packet_send(client->socket_fd, &message, sizeof message, client->client_half.fd,
                      deadline_ns);
    if (err < 0)
        return err;
    struct packet packet;
    return packet_receive(client->socket_fd, &packet, MESSAGE_READY, sizeof(struct message_ready),
                          0, deadline_ns, "waiting for the session");
}

static int shake_hands(struct agl_client *client, const struct agl_options *options,
                       uint64_t deadline_ns)
{
    struct geometry wished = wished_geometry(options);
    int err = send_hello(client->socket_fd, &wished, options->name, deadline_ns);
    if (err < 0)
        return err;
    struct packet packet;
    err =
        packet_receive(client->socket_fd, &packet, MESSAGE_WELCOME, sizeof(struct message_welcome),
                       MESSAGE_WELCOME_FDS, deadline_ns, "waiting for the welcome");
    if (err < 0)
        return err;
    err = take_welcome(client, &packet, &wished);
    packet_close_fds(&packet);
    if (err < 0)
        return err;
    return attach(client, deadline_ns);
}

/* ---- the client ------------------------------------------------------------------------------ */

static void init_rings(struct agl_client *client)
{
    const struct geometry *geometry = &client->geometry;
    uint8_t *own = client->client_half.base;
    const uint8_t *peer = client->daemon_half.base;

    client->words = (void *)(own + client_half_words(geometry));
    client->daemon_words = (const void *)(peer + daemon_half_words(geometry));
    client->arena = own + client_half_arena(geometry);
    client->output = peer + daemon_half_arena(geometry);
    ring_writer_init(&client->submissions, own + client_half_ring(geometry),
                     geometry->submission_slots, SUBMISSION_SLOT_BYTES,
                     &client->daemon_words->submission_cursor);
    ring_reader_init(&client->events, peer + daemon_half_ring(geometry), geometry->event_slots,
                     EVENT_SLOT_BYTES, &client->words->event_cursor);
}

static int init_tables(struct agl_client *client, const struct agl_options *options)
{
    uint32_t count = client->geometry.max_requests;
    client->requests = calloc(count, sizeof *client->requests);
    client->prompts = calloc(count, sizeof *client->prompts);
    if (!client->requests || !client->prompts)
        return error_set(-ENOMEM, "no memory for a table of %u requests", count);
    for (uint32_t i = 0; i < count; i++)
        client->requests[i].next_free = i + 1 < count ? i + 1 : NO_REQUEST;
    client->first_free = 0;

    uint32_t room = client->geometry.arena_bytes / sizeof(uint32_t);
    client->prompt_tokens = options->prompt_tokens < room ? options->prompt_tokens : room;
    client->wait_mode = options->wait_mode;
    spinner_init(&client->spinner, options->wait_mode == AGL_WAIT_SLEEP ? 0 : options->spin_ns);
    return 0;
}

int agl_connect(struct agl_client **ret_client, const struct agl_options *options)
{
    struct agl_options filled = {.socket_path = DEFAULT_SOCKET_PATH, .name = ""};
    int err = read_options(&filled, options);
    if (err < 0)
        return err;
    uint64_t deadline_ns = deadline_after(agl_now_ns(), filled.timeout_ns);

    struct agl_client *client = calloc(1, sizeof *client);
    if (!client)
        return error_set(-ENOMEM, "no memory for a client");
    client->socket_fd = -1;
    client->owner = getpid();
    client->doorbell_fd = -1;
    client->client_half = REGION_EMPTY;
    client->daemon_half = REGION_EMPTY;
    client->board = REGION_EMPTY;

    err = open_socket(&client->socket_fd, filled.socket_path, deadline_ns);
    if (err < 0)
        goto close_client;
    err = shake_hands(client, &filled, deadline_ns);
    if (err < 0)
        goto close_client;
    err = init_tables(client, &filled);
    if (err < 0)
        goto close_client;
    init_rings(client);
    region_close_fd(&client->client_half);
    region_close_fd(&client->daemon_half);
    region_close_fd(&client->board);
    *ret_client = client;
    return 0;

close_client:
    agl_close(client);
    return err;
}

void agl_close(struct agl_client *client)
{
    if (!client)
        return;
    if (client->socket_fd >= 0) {
        /* A child that was forked off may still have the socket: the session ends all the same, but
         * not when the child closes its copy. */
        if (client->owner == getpid())
            shutdown(client->socket_fd, SHUT_RDWR);
        close(client->socket_fd);
    }
    if (client->doorbell_fd >= 0)
        close(client->doorbell_fd);
    region_fini(&client->client_half);
    region_fini(&client->daemon_half);
    region_fini(&client->board);
    free(client->requests);
    free(client->prompts);
    free(client);
}
