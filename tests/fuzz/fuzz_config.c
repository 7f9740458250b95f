/* Any bytes as a configuration file: refused with a reason, or values within their limits that
 * are the same when written and read again. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/config_keys.h"
#include "tests/fuzz/fuzz.h"

/* The configuration as --check-config prints it. */
static char *print(const struct config *config, size_t *ret_bytes)
{
    char *text = NULL;
    FILE *out = open_memstream(&text, ret_bytes);
    assert(out);
    config_write(out, config);
    fclose(out);
    return text;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct config config, again;
    struct failure failure = {""};
    config_defaults(&config);
    int err = config_parse(&config, (const char *)data, size, "/etc/fuzz.json", &failure);
    if (err < 0) {
        assert(strncmp(failure.text, "/etc/fuzz.json:", 15) == 0 && strlen(failure.text) > 17);
        return 0;
    }
    size_t bytes;
    char *text = print(&config, &bytes);
    config_defaults(&again);
    err = config_parse(&again, text, bytes, "/etc/again.json", &failure);
    if (err < 0)
        fprintf(stderr, "%s\n%s\n", failure.text, text);
    assert(err == 0 && memcmp(&config, &again, sizeof config) == 0);
    free(text);
    return 0;
}
