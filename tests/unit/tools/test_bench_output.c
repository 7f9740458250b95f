/* How figures come out, and on which machine they were made. */
#include <math.h>
#include <sched.h>
#include <string.h>

#include "tests/support/test.h"
#include "tools/bench_machine.h"
#include "tools/bench_output.h"

static void every_note_is_told_once(void **state)
{
    struct output *output;
    assert_int_equal(output_open(&output, "nothing", true), 0);
    for (int i = 0; i < 100; i++)
        output_note(output, "note %d", i % 40);
    assert_int_equal(output_finish(output), 0);
    cJSON *notes = cJSON_GetObjectItemCaseSensitive(output_json(output), "notes");
    assert_int_equal(cJSON_GetArraySize(notes), 40);
    assert_string_equal(cJSON_GetStringValue(cJSON_GetArrayItem(notes, 39)), "note 39");
    output_close(output);
}

static void json_names_the_measurement_and_the_machine(void **state)
{
    struct output *output;
    assert_int_equal(output_open(&output, "nothing", true), 0);
    cJSON *root = output_json(output);
    output_add_figure(root, "some_ns", 1.5);
    output_add_figure(root, "none_ns", (double)NAN);
    cJSON *machine = cJSON_GetObjectItemCaseSensitive(root, "machine");
    cJSON *processor = cJSON_GetObjectItemCaseSensitive(machine, "processor");
    cJSON *kernel = cJSON_GetObjectItemCaseSensitive(machine, "kernel");
    assert_string_equal(cJSON_GetStringValue(cJSON_GetObjectItem(root, "bench")), "nothing");
    assert_true(strlen(cJSON_GetStringValue(processor)) > 0);
    assert_ptr_equal(strstr(cJSON_GetStringValue(kernel), "Linux "), cJSON_GetStringValue(kernel));
    assert_true(cJSON_GetNumberValue(cJSON_GetObjectItem(root, "some_ns")) == 1.5);
    assert_true(cJSON_IsNull(cJSON_GetObjectItem(root, "none_ns")));
    output_close(output);
}

static void a_process_keeps_to_the_processor_it_was_told(void **state)
{
    cpu_set_t before;
    struct machine machine;
    int processor = 0;
    assert_int_equal(sched_getaffinity(0, sizeof before, &before), 0);
    machine_describe(&machine);
    assert_int_equal(machine.processors, CPU_COUNT(&before));
    assert_int_equal(machine_pin(-1), 0);
    machine_describe(&machine);
    assert_int_equal(machine.processors, CPU_COUNT(&before));
    while (!CPU_ISSET((size_t)processor, &before))
        processor++;
    assert_int_equal(machine_pin(processor), 0);
    machine_describe(&machine);
    assert_int_equal(machine.processors, 1);
    assert_int_equal(sched_getcpu(), processor);
    assert_true(machine_pin(1023) < 0);
    assert_int_equal(sched_setaffinity(0, sizeof before, &before), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_note_is_told_once),
        cmocka_unit_test(json_names_the_measurement_and_the_machine),
        cmocka_unit_test(a_process_keeps_to_the_processor_it_was_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
