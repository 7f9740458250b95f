/* Any bytes as a client's packets: the first two bytes are recvmsg()'s flags and whether a
 * descriptor came, the rest is the packet. What passes is granted a valid session. */
#include <assert.h>
#include <string.h>

#include "daemon/handshake.h"
#include "tests/fuzz/fuzz.h"

static void grant(const struct message_hello *hello)
{
    static const struct geometry limit = {.submission_slots = 1024,
                                          .event_slots = 4096,
                                          .max_requests = 1024,
                                          .arena_bytes = 16 << 20,
                                          .output_bytes = 4 << 20};
    struct geometry granted;
    char name[32];
    handshake_grant(&granted, &hello->geometry, &limit, hello->minor);
    assert(geometry_is_valid(&granted));
    handshake_clean_name(name, hello->name);
    assert(strnlen(name, sizeof name) < sizeof name && name[0]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct handshake_packet packet;
    struct failure failure = {""};
    if (size < 2)
        return 0;
    memset(&packet, 0, sizeof packet);
    packet.bytes = size - 2 < sizeof packet.message ? size - 2 : sizeof packet.message;
    packet.flags = (data[0] & 1 ? MSG_CTRUNC : 0) | (size - 2 > packet.bytes ? MSG_TRUNC : 0);
    packet.fd = data[1] % 2 - 1;
    memcpy(&packet.message, data + 2, packet.bytes);

    if (handshake_check_hello(&packet, &failure) == 0)
        grant(&packet.message.hello);
    else
        assert(failure.text[0]);
    if (handshake_check_attach(&packet, &failure) == 0)
        assert(packet.fd >= 0);
    return 0;
}
