#include "daemon/board.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/config.h"
#include "tests/support/test.h"

static char instance[32];
static char name[64];
static struct board_owner owner;
static struct failure failure;

static int setup(void **state)
{
    static int number;
    snprintf(instance, sizeof instance, "test-b%d-%d", (int)getpid(), number++);
    snprintf(name, sizeof name, "/autoglm.%s", instance);
    failure.text[0] = 0;
    return 0;
}

static int teardown(void **state)
{
    shm_unlink(name);
    return 0;
}

/* What somebody without a session reads. */
static void read_copy(struct board *ret_board)
{
    int fd = shm_open(name, O_RDONLY, 0);
    assert_true(fd >= 0);
    assert_int_equal(read(fd, ret_board, sizeof *ret_board), sizeof *ret_board);
    close(fd);
}

static void the_copy_can_be_read_by_its_name(void **state)
{
    struct board copy;
    struct stat status;
    mode_t mask = umask(0077);
    assert_int_equal(board_open(&owner, instance, &failure), 0);
    umask(mask);
    read_copy(&copy);
    assert_int_equal(copy.magic, BOARD_MAGIC);
    assert_int_equal(copy.version, BOARD_VERSION);
    assert_int_equal(copy.bytes, sizeof copy);
    assert_int_equal(copy.daemon_pid, getpid());
    assert_string_equal(copy.instance, instance);
    assert_string_equal(copy.daemon_version, config_version());
    assert_true(copy.start_ns > 0);
    assert_int_equal(fstat(owner.named_fd, &status), 0);
    assert_int_equal(status.st_mode & 0777, 0640);
    board_close(&owner);
    assert_int_equal(shm_open(name, O_RDONLY, 0), -1);
    assert_int_equal(errno, ENOENT);
}

static void the_copy_follows_the_board(void **state)
{
    struct board copy;
    assert_int_equal(board_open(&owner, instance, &failure), 0);
    atomic_store(&owner.board->steps, 77);
    read_copy(&copy);
    assert_int_equal(copy.steps, 0);
    board_mirror(&owner);
    read_copy(&copy);
    assert_int_equal(copy.steps, 77);
    board_close(&owner);
}

static void nothing_is_written_while_nothing_changes(void **state)
{
    struct stat before, after;
    struct timespec old = {.tv_sec = 1000};
    struct timespec times[2] = {old, old};
    assert_int_equal(board_open(&owner, instance, &failure), 0);
    assert_int_equal(futimens(owner.named_fd, times), 0);
    assert_int_equal(fstat(owner.named_fd, &before), 0);
    board_mirror(&owner);
    assert_int_equal(fstat(owner.named_fd, &after), 0);
    assert_int_equal(after.st_mtim.tv_sec, before.st_mtim.tv_sec);
    atomic_store(&owner.board->sessions, 1);
    board_mirror(&owner);
    assert_int_equal(fstat(owner.named_fd, &after), 0);
    assert_int_not_equal(after.st_mtim.tv_sec, before.st_mtim.tv_sec);
    board_close(&owner);
}

static void cutting_or_blowing_up_the_copy_does_no_harm(void **state)
{
    struct board copy;
    struct stat status;
    assert_int_equal(board_open(&owner, instance, &failure), 0);
    int fd = shm_open(name, O_RDWR, 0);
    assert_int_equal(ftruncate(fd, 0), 0);
    board_mirror(&owner);
    read_copy(&copy);
    assert_int_equal(copy.magic, BOARD_MAGIC);

    assert_int_equal(ftruncate(fd, 1 << 20), 0);
    board_mirror(&owner);
    assert_int_equal(fstat(fd, &status), 0);
    assert_int_equal(status.st_size, sizeof copy);
    close(fd);
    board_close(&owner);
}

static void a_name_whose_daemon_lives_is_refused(void **state)
{
    struct board_owner second = {.named_fd = -42};
    assert_int_equal(board_open(&owner, instance, &failure), 0);
    int descriptors = test_open_descriptors();
    assert_int_equal(board_open(&second, instance, &failure), -EADDRINUSE);
    char wanted[64];
    snprintf(wanted, sizeof wanted, "served by process %d", (int)getpid());
    assert_non_null(strstr(failure.text, wanted));
    assert_non_null(strstr(failure.text, "--instance"));
    assert_int_equal(second.named_fd, -42);
    assert_int_equal(test_open_descriptors(), descriptors);
    board_close(&owner);
}

/* Anybody may put something there before the daemon starts. */
static void a_fifo_of_its_name_does_not_stop_the_start(void **state)
{
    char path[96];
    snprintf(path, sizeof path, "/dev/shm%s", name);
    assert_int_equal(mkfifo(path, 0666), 0);
    alarm(20); /* ends us if it waits for a writer */
    assert_int_equal(board_open(&owner, instance, &failure), 0);
    shm_unlink(name);
    assert_int_equal(mkfifo(path, 0666), 0); /* and in the place of ours */
    board_close(&owner);
    alarm(0);
    assert_int_equal(shm_unlink(name), 0);
}

static void a_folder_of_its_name_is_told(void **state)
{
    char path[96];
    snprintf(path, sizeof path, "/dev/shm%s", name);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_int_equal(board_open(&owner, instance, &failure), -EISDIR);
    assert_non_null(strstr(failure.text, "left behind, but cannot be removed"));
    assert_int_equal(rmdir(path), 0);
}

/* Never followed; and whatever stands in the place of ours at the end is no one's any more. */
static void a_symbolic_link_of_its_name_is_told_before_and_removed_after(void **state)
{
    char path[96];
    snprintf(path, sizeof path, "/dev/shm%s", name);
    assert_int_equal(symlink("/dev/shm/nothing", path), 0);
    assert_int_equal(board_open(&owner, instance, &failure), -ELOOP);
    assert_non_null(strstr(failure.text, "exists, and: "));
    assert_int_equal(unlink(path), 0);

    assert_int_equal(board_open(&owner, instance, &failure), 0);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(symlink("/dev/shm/nothing", path), 0);
    board_close(&owner);
    assert_int_equal(unlink(path), -1);
    assert_int_equal(errno, ENOENT);
}

/* Locked as a daemon's, but it is no board, or not one yet. */
static void a_locked_object_of_its_name_is_refused_whatever_is_in_it(void **state)
{
    static const char text[sizeof(struct board)] = "this is no board";
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    int fd = shm_open(name, O_CREAT | O_EXCL | O_RDWR, 0640);
    assert_int_equal(fcntl(fd, F_OFD_SETLK, &lock), 0);
    assert_int_equal(board_open(&owner, instance, &failure), -EADDRINUSE); /* empty */
    assert_non_null(strstr(failure.text, "served by process 0"));
    assert_int_equal(write(fd, text, sizeof text), sizeof text);
    assert_int_equal(board_open(&owner, instance, &failure), -EADDRINUSE);
    assert_non_null(strstr(failure.text, "served by process 0"));
    close(fd);
}

static void a_name_that_is_gone_at_the_end_is_no_harm(void **state)
{
    int descriptors = test_open_descriptors();
    assert_int_equal(board_open(&owner, instance, &failure), 0);
    assert_int_equal(shm_unlink(name), 0);
    board_close(&owner);
    assert_int_equal(test_open_descriptors(), descriptors);
}

static void readers_cannot_pretend_that_a_dead_daemon_lives(void **state)
{
    int fd = shm_open(name, O_CREAT | O_RDWR, 0640);
    close(fd);
    fd = shm_open(name, O_RDONLY, 0);
    struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET};
    assert_int_equal(fcntl(fd, F_OFD_SETLK, &lock), 0);
    assert_int_equal(board_open(&owner, instance, &failure), 0);
    board_close(&owner);
    close(fd);
}

static void a_name_left_by_a_dead_daemon_is_taken_over(void **state)
{
    struct board copy;
    pid_t child = fork();
    if (child == 0) {
        _exit(board_open(&owner, instance, NULL) == 0 ? 0 : 1); /* without board_close() */
    }
    int status;
    waitpid(child, &status, 0);
    assert_int_equal(WEXITSTATUS(status), 0);
    read_copy(&copy);
    assert_int_equal(copy.daemon_pid, child);

    assert_int_equal(board_open(&owner, instance, &failure), 0);
    read_copy(&copy);
    assert_int_equal(copy.daemon_pid, getpid());
    board_close(&owner);
}

static void a_name_that_another_daemon_took_is_left_to_it(void **state)
{
    assert_int_equal(board_open(&owner, instance, &failure), 0);
    shm_unlink(name);
    int fd = shm_open(name, O_CREAT | O_EXCL | O_RDWR, 0640);
    assert_true(fd >= 0);
    board_close(&owner);
    int again = shm_open(name, O_RDONLY, 0);
    assert_true(again >= 0);
    close(again);
    close(fd);
}

static void instances_without_a_proper_name_are_refused(void **state)
{
    assert_int_equal(board_open(&owner, "", &failure), -EINVAL);
    assert_int_equal(board_open(&owner, "a/b", &failure), -EINVAL);
    assert_int_equal(board_open(&owner, "0123456789012345678901234567890123456789", &failure),
                     -EINVAL);
}

static void models_are_shown_as_they_are(void **state)
{
    struct board copy;
    struct model model = {.name = "glm",
                          .folder = "/models/glm",
                          .weights_bytes = 1000,
                          .bytes_per_token = 900,
                          .config = {.architecture_name = "GlmForCausalLM",
                                     .vocab_size = 500,
                                     .context_tokens = 2048,
                                     .eos_ids = {1, 2, 3},
                                     .eos_count = 3}};
    assert_int_equal(board_open(&owner, instance, &failure), 0);
    assert_int_equal(board_add_model(&owner, &model, 64, 16, 4096), 0);
    board_mirror(&owner);
    read_copy(&copy);
    const struct board_model *entry = &copy.models[0];
    assert_int_equal(copy.model_count, 1);
    assert_string_equal(entry->name, "glm");
    assert_string_equal(entry->architecture, "GlmForCausalLM");
    assert_string_equal(entry->folder, "/models/glm");
    assert_int_equal(entry->vocab_size, 500);
    assert_int_equal(entry->context_tokens, 2048);
    assert_int_equal(entry->eos_count, 3);
    assert_int_equal(entry->eos_ids[2], 3);
    assert_int_equal(entry->block_tokens, 16);
    assert_int_equal(entry->blocks, 64);
    assert_int_equal(entry->blocks_free, 64);
    assert_int_equal(entry->weights_bytes, 1000);
    assert_int_equal(entry->bytes_per_token, 900);
    assert_int_equal(entry->cache_bytes, 4096);
    for (int i = 1; i < BOARD_MODELS_MAX; i++)
        assert_int_equal(board_add_model(&owner, &model, 0, 0, 0), 0);
    assert_int_equal(board_add_model(&owner, &model, 0, 0, 0), -ENOSPC);
    board_close(&owner);
}

static void opening_and_closing_leaves_nothing(void **state)
{
    int descriptors = test_open_descriptors();
    assert_int_equal(board_open(&owner, instance, &failure), 0);
    board_close(&owner);
    board_close(&owner);
    assert_int_equal(test_open_descriptors(), descriptors);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(the_copy_can_be_read_by_its_name),
        TEST(the_copy_follows_the_board),
        TEST(nothing_is_written_while_nothing_changes),
        TEST(cutting_or_blowing_up_the_copy_does_no_harm),
        TEST(a_name_whose_daemon_lives_is_refused),
        TEST(a_fifo_of_its_name_does_not_stop_the_start),
        TEST(a_folder_of_its_name_is_told),
        TEST(a_symbolic_link_of_its_name_is_told_before_and_removed_after),
        TEST(a_locked_object_of_its_name_is_refused_whatever_is_in_it),
        TEST(a_name_that_is_gone_at_the_end_is_no_harm),
        TEST(readers_cannot_pretend_that_a_dead_daemon_lives),
        TEST(a_name_left_by_a_dead_daemon_is_taken_over),
        TEST(a_name_that_another_daemon_took_is_left_to_it),
        TEST(instances_without_a_proper_name_are_refused),
        TEST(models_are_shown_as_they_are),
        TEST(opening_and_closing_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
