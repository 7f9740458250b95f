#include "tools/bench_place.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* The folder of this program. */
static bool find_self(char ret_folder[PLACE_BYTES])
{
    ssize_t bytes = readlink("/proc/self/exe", ret_folder, PLACE_BYTES - 1);
    if (bytes <= 0)
        return false;
    ret_folder[bytes] = 0;
    char *slash = strrchr(ret_folder, '/');
    if (slash)
        *slash = 0;
    return true;
}

/* The first of `places`, relative to that folder, in which there is `file` ("" for itself). */
static bool find(const char *const *places, size_t count, const char *file, int access_mode,
                 char ret_place[PLACE_BYTES])
{
    char self[PLACE_BYTES];
    char probe[PLACE_BYTES];
    if (!find_self(self))
        return false;
    for (size_t i = 0; i < count; i++) {
        int length = snprintf(probe, sizeof probe, "%s/%s%s", self, places[i], file);
        if (length >= PLACE_BYTES || access(probe, access_mode) != 0)
            continue;
        probe[(size_t)length - strlen(file)] = 0;
        memcpy(ret_place, probe, sizeof probe);
        return true;
    }
    return false;
}

void place_daemon(char ret_program[PLACE_BYTES])
{
    static const char *const places[] = {"../sbin/autoglmd", "../daemon/autoglmd", "autoglmd"};
    if (!find(places, sizeof places / sizeof places[0], "", X_OK, ret_program))
        snprintf(ret_program, PLACE_BYTES, "autoglmd");
}

bool place_bundled_model(char ret_folder[PLACE_BYTES])
{
    static const char *const places[] = {"../../../models/story-glm",
                                         "../share/autoglm/models/story-glm"};
    return find(places, sizeof places / sizeof places[0], "/config.json", R_OK, ret_folder);
}
