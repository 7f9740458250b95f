#include "tools/bench_machine.h"

#include <errno.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>

/* The value of the first "model name" in /proc/cpuinfo, which not every architecture has. */
static bool find_model_name(char *ret_name, size_t bytes)
{
    static const char key[] = "model name";
    char line[512];
    bool is_found = false;
    FILE *file = fopen("/proc/cpuinfo", "re");
    while (file && !is_found && fgets(line, sizeof line, file)) {
        const char *colon = strchr(line, ':');
        if (strncmp(line, key, sizeof key - 1) != 0 || !colon)
            continue;
        line[strcspn(line, "\n")] = 0;
        snprintf(ret_name, bytes, "%s", colon + 1 + strspn(colon + 1, " \t"));
        is_found = *ret_name != 0;
    }
    if (file)
        fclose(file);
    return is_found;
}

void machine_describe(struct machine *ret_machine)
{
    struct machine machine = {.processors = 0};
    struct utsname name = {.sysname = "unknown"};
    cpu_set_t allowed;
    uname(&name);
    snprintf(machine.kernel, sizeof machine.kernel, "%.31s %.63s", name.sysname, name.release);
    if (!find_model_name(machine.processor, sizeof machine.processor))
        snprintf(machine.processor, sizeof machine.processor, "%s", name.machine);
    if (sched_getaffinity(0, sizeof allowed, &allowed) == 0)
        machine.processors = (uint32_t)CPU_COUNT(&allowed);
    *ret_machine = machine;
}

int machine_pin(int processor)
{
    cpu_set_t set;
    if (processor < 0)
        return 0;
    CPU_ZERO(&set);
    CPU_SET((size_t)processor, &set);
    return sched_setaffinity(0, sizeof set, &set) < 0 ? -errno : 0;
}
