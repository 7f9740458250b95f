/* Linked with --wrap=packet_receive: says on stdout which version this library speaks, and which
 * one the handshake settled on, which autoglm.h does not tell. */
#include <stdio.h>

#include "client/packet.h"

int __real_packet_receive(int socket_fd, struct packet *ret_packet, enum message_kind kind,
                          size_t bytes, uint32_t fd_count, uint64_t deadline_ns, const char *doing);
int __wrap_packet_receive(int socket_fd, struct packet *ret_packet, enum message_kind kind,
                          size_t bytes, uint32_t fd_count, uint64_t deadline_ns, const char *doing);

int __wrap_packet_receive(int socket_fd, struct packet *ret_packet, enum message_kind kind,
                          size_t bytes, uint32_t fd_count, uint64_t deadline_ns, const char *doing)
{
    int err =
        __real_packet_receive(socket_fd, ret_packet, kind, bytes, fd_count, deadline_ns, doing);
    if (kind == MESSAGE_WELCOME)
        printf("library %d.%d\n", LAYOUT_MAJOR, LAYOUT_MINOR);
    if (kind == MESSAGE_WELCOME && err == 0)
        printf("session %u.%u\n", ret_packet->message.welcome.major,
               ret_packet->message.welcome.minor);
    return err;
}
