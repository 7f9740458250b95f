#include "daemon/config.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/config_keys.h"
#include "daemon/log.h"
#include "tests/support/test.h"

static char folder[4096];
static char file[4200];
static struct config config;
static struct failure failure;

static int setup(void **state)
{
    test_folder(folder);
    snprintf(file, sizeof file, "%s/autoglm.json", folder);
    memset(&config, 0xAA, sizeof config);
    failure.text[0] = 0;
    return 0;
}

static int teardown(void **state)
{
    test_remove_folder(folder);
    return 0;
}

static void write_file(const char *text)
{
    test_write_file(folder, "autoglm.json", text, strlen(text));
}

static void write_drop_in(const char *name, const char *text)
{
    char path[4300];
    snprintf(path, sizeof path, "%s.d", file);
    mkdir(path, 0700);
    test_write_file(path, name, text, strlen(text));
}

/* config_read() with the file and up to four more arguments. */
static int read_with(const char *a, const char *b, const char *c, const char *d)
{
    const char *argv[] = {"autoglmd", "--config", file, a, b, c, d};
    int argc = 3;
    while (argc < 7 && argv[argc])
        argc++;
    return config_read(&config, argc, (char **)argv, &failure);
}

static int read_flags(const char *a, const char *b, const char *c, const char *d)
{
    write_file("{\"models\": {\"m\": \"echo:\"}}");
    return read_with(a, b, c, d);
}

/* The file alone is wrong, and the message begins with its name and goes on like this. */
static void expect_refused(const char *text, const char *message)
{
    char wanted[5000];
    struct config before;
    memset(&before, 0x55, sizeof before);
    config = before;
    write_file(text);
    int err = read_with(NULL, NULL, NULL, NULL);
    snprintf(wanted, sizeof wanted, "%s:%s", file, message);
    if (err >= 0)
        fail_msg("accepted: %s", text);
    if (!strstr(failure.text, wanted))
        fail_msg("%s: says \"%s\", not \"%s\"", text, failure.text, wanted);
    assert_memory_equal(&config, &before, sizeof before);
}

static void expect_flags_refused(const char *a, const char *b, const char *message)
{
    if (read_flags(a, b, NULL, NULL) >= 0)
        fail_msg("accepted: %s %s", a, b ? b : "");
    if (!strstr(failure.text, message))
        fail_msg("%s: says \"%s\", not \"%s\"", a, failure.text, message);
}

static void a_file_sets_every_kind_of_key(void **state)
{
    write_file(
        "// the whole of it\n"
        "{\n"
        "  \"socket\": \"/tmp/x//y\", /* no comment inside a string */\n"
        "  \"instance\": \"two\", \"socket_group\": \"users\", \"socket_mode\": \"0600\",\n"
        "  \"models\": {\"glm\": \"/models/glm\", \"e\": \"echo:\"},\n"
        "  \"cpu_variant\": \"plain\", \"threads\": 3, \"wait\": \"sleep\", \"spin_us\": 7,\n"
        "  \"cache_mib\": 3, \"cache_type\": \"f32\", \"memory_mib\": 5,\n"
        "  \"quant\": \"q4_min\", \"quant_head\": \"keep\", \"quant_embedding\": \"quant\",\n"
        "  \"handshake_ms\": 9, \"drain_ms\": 0, \"log_level\": \"debug\",\n"
        "  \"session\": {\"event_slots\": 64, \"max_requests\": 8, \"arena_bytes\": 8192}\n"
        "}\n");
    assert_int_equal(read_with(NULL, NULL, NULL, NULL), CONFIG_RUN);
    assert_string_equal(config.socket_path, "/tmp/x//y");
    assert_string_equal(config.instance, "two");
    assert_string_equal(config.socket_group, "users");
    assert_int_equal(config.socket_mode, 0600);
    assert_int_equal(config.model_count, 2);
    assert_string_equal(config.models[0].name, "glm");
    assert_string_equal(config.models[0].folder, "/models/glm");
    assert_string_equal(config.models[1].folder, "echo:");
    assert_string_equal(config.cpu_variant, "plain");
    assert_int_equal(config.threads, 3);
    assert_int_equal(config.wait, ENGINE_WAIT_SLEEP);
    assert_int_equal(config.spin_ns, 7000);
    assert_int_equal(config.cache_bytes, 3 << 20);
    assert_int_equal(config.cache_type, TENSOR_F32);
    assert_int_equal(config.memory_bytes, 5 << 20);
    assert_int_equal(config.quant, TENSOR_Q4_MIN);
    assert_int_equal(config.quant_head, MODEL_WIDE_KEEP);
    assert_int_equal(config.quant_embedding, MODEL_WIDE_QUANT);
    assert_int_equal(config.handshake_ns, 9000000);
    assert_int_equal(config.drain_ns, 0);
    assert_int_equal(config.log_level, LOG_LEVEL_DEBUG);
    assert_int_equal(config.geometry_max.event_slots, 64);
    assert_int_equal(config.geometry_max.max_requests, 8);
    assert_int_equal(config.geometry_max.arena_bytes, 8192);
    assert_int_equal(config.geometry_max.submission_slots, 1024); /* left alone */
    assert_false(config.check_only);
}

static void defaults_are_those_of_the_header(void **state)
{
    config_defaults(&config);
    assert_string_equal(config.socket_path, "/run/autoglm/autoglm.sock");
    assert_string_equal(config.instance, "default");
    assert_string_equal(config.device, "cpu");
    assert_string_equal(config.cpu_variant, "auto");
    assert_int_equal(config.socket_mode, 0660);
    assert_int_equal(config.wait, ENGINE_WAIT_ADAPTIVE);
    assert_int_equal(config.spin_ns, 50000);
    assert_int_equal(config.cache_bytes, 1 << 30);
    assert_int_equal(config.cache_type, TENSOR_F16);
    assert_false(tensor_type_is_packed(config.quant));
    assert_int_equal(config.quant_head, MODEL_WIDE_Q8);
    assert_int_equal(config.quant_embedding, MODEL_WIDE_Q8);
    assert_int_equal(config.step_tokens, 256);
    assert_int_equal(config.queue_tokens, 4 << 20);
    assert_int_equal(config.sessions_max, 1024);
    assert_int_equal(config.slow_reader_ns, 5000000000);
    assert_int_equal(config.drain_ns, 10000000000);
    assert_int_equal(config.log_level, LOG_LEVEL_INFO);
    assert_int_equal(config.model_count, 0);
    assert_true(geometry_is_valid(&config.geometry_max));
}

static void syntax_errors_are_named_with_line_and_column(void **state)
{
    expect_refused("{\n  // comment\n  \"threads\": 1,,\n}", "3:16: not valid JSON");
    expect_refused("{\n/* two\nlines */ \"threads\" 1}", "3:20: not valid JSON");
    expect_refused("", "1:1: not valid JSON");
    expect_refused("{\"threads\": 1", "1:14: not valid JSON");
    expect_refused("{} {}", "1:4: not valid JSON");
    expect_refused("{} // more\n, 1", "2:1: not valid JSON");
    expect_refused("{ /* unended", "1:3: not valid JSON");
    expect_refused("{\"threads\": 0x10}", "1:14: not valid JSON");
    expect_refused("[]", " is an array, must be an object");
}

static void an_unknown_key_is_answered_with_the_nearest_known_one(void **state)
{
    expect_refused("{\"thread\": 1}",
                   " unknown key \"thread\"; the nearest known one is \"threads\"");
    expect_refused("{\"cache-mib\": 1}", " unknown key \"cache-mib\"; the nearest known one is "
                                         "\"cache_mib\"");
    expect_refused("{\"model\": {}}",
                   " unknown key \"model\"; the nearest known one is \"models\"");
    expect_refused("{\"session\": {\"max_request\": 1}}",
                   " unknown key \"max_request\"; the nearest known one is "
                   "\"session.max_requests\"");
    expect_refused("{\"session.max_requests\": 1}", " unknown key \"session.max_requests\"");
    expect_refused("{\"session\": {\"threads\": 1}}", " unknown key \"threads\"");
    expect_refused("{\"stagger\": 1}", " unknown key \"stagger\"");
}

static void a_key_that_stands_twice_is_refused(void **state)
{
    expect_refused("{\"threads\": 1, \"threads\": 1}", " the key \"threads\" stands twice");
    expect_refused("{\"models\": {\"a\": \"echo:\", \"a\": \"echo:\"}}", " the key \"a\" stands");
}

static void wrong_values_are_named_with_what_is_allowed(void **state)
{
    expect_refused("{\"threads\": \"4\"}",
                   " threads: is a string, must be a number from 0 to 1024");
    expect_refused("{\"threads\": 1025}", " threads: is 1025, must be a number from 0 to 1024");
    expect_refused("{\"threads\": -1}", " threads: is -1, must be a number from 0 to 1024");
    expect_refused("{\"threads\": 1.5}", " threads: is 1.5, must be a number from 0 to 1024");
    expect_refused("{\"threads\": 1e30}", " threads: is 1e+30, must be");
    expect_refused("{\"threads\": null}", " threads: is null, must be");
    expect_refused("{\"block_tokens\": 24}", " block_tokens: is 24, must be a power of two from 1");
    expect_refused("{\"wait\": \"doze\"}",
                   " wait: is \"doze\", must be one of \"adaptive\", \"spin\", \"sleep\"");
    expect_refused("{\"wait\": 1}", " wait: is a number, must be one of \"adaptive\"");
    expect_refused(
        "{\"cpu_variant\": \"sse\"}",
        " cpu_variant: is \"sse\", must be one of \"auto\", \"plain\", \"avx2\", \"avx512\", "
        "\"avx512vnni\", \"amx\"");
    expect_refused("{\"cache_type\": \"int8\"}", " cache_type: is \"int8\", must be one of");
    expect_refused("{\"quant\": \"q5\"}", " quant: is \"q5\", must be one of \"none\", \"q8\", "
                                          "\"q8_min\", \"q4\", \"q4_min\"");
    expect_refused("{\"quant_head\": \"q4\"}",
                   " quant_head: is \"q4\", must be one of \"q8\", \"keep\", \"quant\"");
    expect_refused("{\"socket_mode\": 432}",
                   " socket_mode: is a number, must be a string of octal");
    expect_refused("{\"socket_mode\": \"1777\"}", " socket_mode: is \"1777\", must be a string of "
                                                  "octal digits up to \"0777\"");
    expect_refused("{\"socket_mode\": \"089\"}", " socket_mode: is \"089\"");
    expect_refused("{\"instance\": \"0123456789012345678901234567890123456789\"}",
                   " instance: is \"0123456789012345678901234567890123456789\", must be a string "
                   "of at most 31 bytes");
    expect_refused("{\"session\": []}", " session: is an array, must be an object");
    expect_refused("{\"session\": {\"arena_bytes\": 5000}}",
                   " session.arena_bytes: is 5000, must be a multiple of 4096");
    expect_refused("{\"session\": {\"event_slots\": 100}}",
                   " session.event_slots: is 100, must be");
}

static void wrong_models_are_named(void **state)
{
    expect_refused("{\"models\": []}", " models: is an array, must be an object {NAME: FOLDER}");
    expect_refused("{\"models\": {\"a\": 1}}", " models: \"a\": is a number");
    expect_refused("{\"models\": {\"a b\": \"/x\"}}", " models: model name \"a b\"");
    expect_refused("{\"models\": {\"\": \"/x\"}}", " models: model name \"\"");
    expect_refused("{\"models\": {\"a\": \"\"}}", " models: model a: the folder is empty");

    char text[2048] = "{\"models\": {\"m\": \"echo:\"";
    for (int i = 0; i < CONFIG_MODELS_MAX; i++)
        snprintf(text + strlen(text), 32, ", \"m%d\": \"echo:\"", i);
    strcat(text, "}}");
    expect_refused(text, " models: model m15: 16 models are the most");
}

static void no_model_at_all_is_an_error_that_says_what_to_do(void **state)
{
    write_file("{}");
    assert_int_equal(read_with(NULL, NULL, NULL, NULL), -EINVAL);
    assert_non_null(strstr(failure.text, "no model to serve: give --model NAME=PATH"));
    assert_non_null(strstr(failure.text, file));
}

static void the_whole_must_fit_together(void **state)
{
    assert_true(read_flags("--session-event-slots", "32", NULL, NULL) < 0);
    assert_non_null(strstr(failure.text, "session.event_slots: is 32, must be at least"));
    assert_true(read_flags("--socket", "", NULL, NULL) < 0);
    assert_true(read_flags("--instance", "a/b", NULL, NULL) < 0);
    assert_true(read_flags("--instance", "", NULL, NULL) < 0);
    assert_int_equal(read_flags("--step-tokens", "16", NULL, NULL), CONFIG_RUN);
    assert_int_equal(config.chunk_tokens, 16); /* more does not fit a step */
    assert_int_equal(config.running_max, 16);
}

static void drop_ins_are_read_in_the_order_of_their_names(void **state)
{
    write_file("{\"threads\": 1, \"cache_mib\": 1, \"models\": {\"a\": \"/a\", \"b\": \"/b\"}}");
    write_drop_in("20-b.json", "{\"threads\": 3}");
    write_drop_in("10-a.json", "{\"threads\": 2, \"spin_us\": 2, \"models\": {\"a\": \"/c\"}}");
    write_drop_in("30-c.json.bak", "nonsense");
    write_drop_in(".hidden.json", "nonsense");
    assert_int_equal(read_with(NULL, NULL, NULL, NULL), CONFIG_RUN);
    assert_int_equal(config.threads, 3);
    assert_int_equal(config.spin_ns, 2000);
    assert_int_equal(config.cache_bytes, 1 << 20);
    assert_int_equal(config.model_count, 2);
    assert_string_equal(config.models[0].folder, "/c");
    assert_string_equal(config.models[1].folder, "/b");
}

static void a_wrong_drop_in_is_named_itself(void **state)
{
    write_file("{\"models\": {\"a\": \"echo:\"}}");
    write_drop_in("10-a.json", "{\"treads\": 2}");
    assert_int_equal(read_with(NULL, NULL, NULL, NULL), -EINVAL);
    assert_non_null(strstr(failure.text, "autoglm.json.d/10-a.json: unknown key \"treads\""));
}

static void a_named_file_must_be_there(void **state)
{
    assert_int_equal(read_with("--model", "e=echo:", NULL, NULL), -ENOENT);
    assert_non_null(strstr(failure.text, file));
}

static void flags_win_over_files(void **state)
{
    write_file("{\"threads\": 1, \"wait\": \"spin\", \"models\": {\"a\": \"/a\", \"b\": \"/b\"}}");
    assert_int_equal(read_with("--threads=2", "--wait", "sleep", "--model=c=/c"), CONFIG_RUN);
    assert_int_equal(config.threads, 2);
    assert_int_equal(config.wait, ENGINE_WAIT_SLEEP);
    assert_int_equal(config.model_count, 1); /* --model replaces all of them */
    assert_string_equal(config.models[0].name, "c");
    assert_string_equal(config.models[0].folder, "/c");
}

static void every_key_is_a_flag_too(void **state)
{
    char flag[64];
    for (size_t i = 0; i < config_key_count; i++) {
        const struct config_key *key = &config_keys[i];
        config_flag_name(key, flag, sizeof flag);
        if (key->fallback[0] && read_flags(flag, key->fallback, NULL, NULL) != CONFIG_RUN)
            fail_msg("%s %s: %s", flag, key->fallback, failure.text);
    }
    assert_int_equal(read_flags("--session-arena-bytes", "4096", NULL, NULL), CONFIG_RUN);
    assert_int_equal(config.geometry_max.arena_bytes, 4096);
    assert_int_equal(read_flags("--cache-mib=2", "--handshake-ms=3", NULL, NULL), CONFIG_RUN);
    assert_int_equal(config.cache_bytes, 2 << 20);
    assert_int_equal(config.handshake_ns, 3000000);
}

static void lists_are_arrays_in_files_and_have_commas_in_flags(void **state)
{
    write_file("{\"models\": {\"m\": \"echo:\"}, \"allow_users\": [\"alice\", 1001, \"bob\"],"
               " \"allow_groups\": []}");
    assert_int_equal(read_with(NULL, NULL, NULL, NULL), CONFIG_RUN);
    assert_string_equal(config.allow_users, "alice,1001,bob");
    assert_string_equal(config.allow_groups, "");
    assert_int_equal(read_with("--allow-users", "7,carol", NULL, NULL), CONFIG_RUN);
    assert_string_equal(config.allow_users, "7,carol");
    expect_refused("{\"allow_users\": \"alice\"}", " allow_users: is a string, must be a list of");
    expect_refused("{\"allow_users\": [true]}", " allow_users: has a boolean in it");
    expect_refused("{\"allow_users\": [\"a,b\"]}", " allow_users: has \"a,b\" in it");
    expect_refused("{\"allow_users\": [\"\"]}", " allow_users: has \"\" in it");
    expect_refused("{\"allow_users\": [-1]}", " allow_users: has a number in it");
    char text[3000] = "{\"allow_groups\": [\"x\"";
    while (strlen(text) < 2900)
        strcat(text, ", \"group\"");
    strcat(text, "]}");
    expect_refused(text, " allow_groups: is \"x,group,");
}

static void wrong_flags_are_named(void **state)
{
    expect_flags_refused("--chache-mib", "1",
                         "unknown flag \"--chache-mib\"; the nearest known one is --cache-mib");
    expect_flags_refused("--modell", "a=b", "the nearest known one is --model");
    expect_flags_refused("--cache_mib", "1", "the nearest known one is --cache-mib");
    expect_flags_refused("--threads", NULL, "--threads needs a value");
    expect_flags_refused("--threads", "many", "--threads: is \"many\", must be a number from 0");
    expect_flags_refused("--threads", " 1", "--threads: is \" 1\"");
    expect_flags_refused("--threads", "+1", "--threads: is \"+1\"");
    expect_flags_refused("--threads", "", "--threads: is \"\"");
    expect_flags_refused("--threads", "18446744073709551617", "--threads: is");
    expect_flags_refused("--help=1", NULL, "--help takes no value");
    expect_flags_refused("serve", NULL, "unexpected argument \"serve\"");
    expect_flags_refused("--model", "glm", "--model: is \"glm\", must be NAME=PATH");
    expect_flags_refused("--model", "=x", "model name \"\"");
    expect_flags_refused("--config", NULL, "--config needs a value");
    assert_true(read_flags("--model", "a=echo:", "--model", "a=echo:") < 0);
    assert_non_null(strstr(failure.text, "the name a is given twice"));
}

static void relative_model_folders_become_absolute(void **state)
{
    char here[4096], wanted[8300];
    assert_non_null(getcwd(here, sizeof here));
    assert_int_equal(read_flags("--model", "a=no/such", NULL, NULL), CONFIG_RUN);
    snprintf(wanted, sizeof wanted, "%s/no/such", here);
    assert_string_equal(config.models[0].folder, wanted);
    assert_int_equal(read_flags("--model", "a=.", NULL, NULL), CONFIG_RUN);
    assert_string_equal(config.models[0].folder, here);

    write_file("{\"models\": {\"a\": \"glm\"}}"); /* from the file's own folder */
    snprintf(wanted, sizeof wanted, "%s/glm", folder);
    mkdir(wanted, 0700);
    assert_int_equal(read_with(NULL, NULL, NULL, NULL), CONFIG_RUN);
    assert_string_equal(config.models[0].folder, wanted);

    char path[400];
    memset(path, 'x', sizeof path);
    memcpy(path, "a=/", 3);
    path[sizeof path - 1] = 0;
    assert_true(read_flags("--model", path, NULL, NULL) == -ENAMETOOLONG);
}

static void help_and_version_need_no_valid_rest(void **state)
{
    const char *help[] = {"autoglmd", "--config", "/no/such", "--help"};
    const char *version[] = {"autoglmd", "--version"};
    assert_int_equal(config_read(&config, 4, (char **)help, &failure), CONFIG_HELP);
    assert_int_equal(config_read(&config, 2, (char **)version, &failure), CONFIG_VERSION);
    assert_string_equal(config_version(), "0.1.0");
}

static void the_help_of_a_choice_names_its_words(void **state)
{
    for (size_t i = 0; i < config_key_count; i++) {
        const struct config_key *key = &config_keys[i];
        for (int word = 0; word < CONFIG_WORDS_MAX && key->words[word]; word++)
            if (!strstr(key->help, key->words[word]))
                fail_msg("%s: its help lacks %s", key->name, key->words[word]);
    }
}

static void help_names_every_flag(void **state)
{
    char flag[64], path[4200];
    snprintf(path, sizeof path, "%s/help", folder);
    FILE *out = fopen(path, "w");
    config_usage(out);
    fclose(out);
    char *text = test_read_file(path, NULL);
    for (size_t i = 0; i < config_key_count; i++) {
        config_flag_name(&config_keys[i], flag, sizeof flag);
        if (!strstr(text, flag))
            fail_msg("--help lacks %s", flag);
    }
    assert_non_null(strstr(text, "--model NAME=PATH"));
    free(text);
}

static void what_is_written_reads_back_as_the_same(void **state)
{
    struct config again;
    assert_int_equal(
        read_flags("--model=q=/a\"b\\c\nd", "--socket-mode=0606", "--check-config", NULL),
        CONFIG_RUN);
    assert_true(config.check_only);
    FILE *out = fopen(file, "w");
    config_write(out, &config);
    fclose(out);
    again = config;
    assert_int_equal(read_with("--check-config", NULL, NULL, NULL), CONFIG_RUN);
    assert_memory_equal(&config, &again, sizeof again);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_file_sets_every_kind_of_key),
        TEST(defaults_are_those_of_the_header),
        TEST(syntax_errors_are_named_with_line_and_column),
        TEST(an_unknown_key_is_answered_with_the_nearest_known_one),
        TEST(a_key_that_stands_twice_is_refused),
        TEST(wrong_values_are_named_with_what_is_allowed),
        TEST(wrong_models_are_named),
        TEST(no_model_at_all_is_an_error_that_says_what_to_do),
        TEST(the_whole_must_fit_together),
        TEST(drop_ins_are_read_in_the_order_of_their_names),
        TEST(a_wrong_drop_in_is_named_itself),
        TEST(a_named_file_must_be_there),
        TEST(flags_win_over_files),
        TEST(every_key_is_a_flag_too),
        TEST(lists_are_arrays_in_files_and_have_commas_in_flags),
        TEST(wrong_flags_are_named),
        TEST(relative_model_folders_become_absolute),
        TEST(help_and_version_need_no_valid_rest),
        TEST(help_names_every_flag),
        TEST(the_help_of_a_choice_names_its_words),
        TEST(what_is_written_reads_back_as_the_same),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
