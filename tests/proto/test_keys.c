#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "proto/link.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct folder {
    char path[64], file[96];
};

static int folder_new(void **state)
{
    struct folder *f = calloc(1, sizeof *f);
    if (!f) return -1;
    (void)snprintf(f->path, sizeof f->path, "/tmp/rung-keys-XXXXXX");
    *state = f;
    if (!mkdtemp(f->path)) return -1;
    (void)snprintf(f->file, sizeof f->file, "%s/key", f->path);
    return 0;
}

static int folder_free(void **state)
{
    struct folder *f = *state;
    (void)unlink(f->file);
    (void)rmdir(f->path);
    free(f);
    return 0;
}

static void put(const struct folder *f, const char *text, mode_t mode)
{
    FILE *file = fopen(f->file, "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(chmod(f->file, mode), 0);
}

static void a_pair_is_written_for_its_owner_only_and_read_back(void **state)
{
    struct folder *f = *state;
    struct link_keys made, read;
    struct stat st;
    assert_int_equal(link_keys_make(&made, NULL), ERR_OK);
    assert_int_equal(link_keys_write(&made, f->file, NULL), ERR_OK);
    assert_int_equal(stat(f->file, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(link_keys_read(&read, f->file, NULL), ERR_OK);
    assert_string_equal(made.public_key, read.public_key);
    assert_string_equal(made.secret_key, read.secret_key);
}

static void a_key_file_is_never_overwritten(void **state)
{
    struct folder *f = *state;
    struct link_keys first, second, read;
    struct err e = {0};
    assert_int_equal(link_keys_make(&first, NULL), ERR_OK);
    assert_int_equal(link_keys_make(&second, NULL), ERR_OK);
    assert_int_equal(link_keys_write(&first, f->file, NULL), ERR_OK);
    assert_int_equal(link_keys_write(&second, f->file, &e), ERR_IO);
    assert_non_null(strstr(e.msg, f->file));
    assert_int_equal(link_keys_read(&read, f->file, NULL), ERR_OK);
    assert_string_equal(read.public_key, first.public_key);
}

static void a_file_that_others_may_read_is_refused(void **state)
{
    struct folder *f = *state;
    struct link_keys keys;
    struct err e = {0};
    assert_int_equal(link_keys_make(&keys, NULL), ERR_OK);
    assert_int_equal(link_keys_write(&keys, f->file, NULL), ERR_OK);
    assert_int_equal(chmod(f->file, 0640), 0);
    assert_int_equal(link_keys_read(&keys, f->file, &e), ERR_FORBIDDEN);
    assert_non_null(strstr(e.msg, "chmod 600"));
}

static void damaged_key_files_are_refused(void **state)
{
    struct folder *f = *state;
    struct link_keys one, other, read;
    char text[256];
    assert_int_equal(link_keys_make(&one, NULL), ERR_OK);
    assert_int_equal(link_keys_make(&other, NULL), ERR_OK);
    assert_int_equal(link_keys_read(&read, "/nonexistent/key", NULL), ERR_IO);
    put(f, "", 0600);
    assert_int_equal(link_keys_read(&read, f->file, NULL), ERR_SYNTAX);
    (void)snprintf(text, sizeof text, "public=%s\nsecret=short\n", one.public_key);
    put(f, text, 0600);
    assert_int_equal(link_keys_read(&read, f->file, NULL), ERR_SYNTAX);
    (void)snprintf(text, sizeof text, "public=%s\nsecret=%s\n", one.public_key, other.secret_key);
    put(f, text, 0600);
    assert_int_equal(link_keys_read(&read, f->file, NULL), ERR_CORRUPT);
    /* The order of the lines, lines of other kinds and a missing last newline do not matter. */
    (void)snprintf(text, sizeof text, "# core\nsecret=%s\r\npublic=%s", one.secret_key, one.public_key);
    put(f, text, 0600);
    assert_int_equal(link_keys_read(&read, f->file, NULL), ERR_OK);
}

static void allowed_keys_are_read_with_their_names(void **state)
{
    struct folder *f = *state;
    struct link_keys one, other;
    struct link_peer_key *keys = NULL;
    char text[512];
    int count = 0;
    assert_int_equal(link_keys_make(&one, NULL), ERR_OK);
    assert_int_equal(link_keys_make(&other, NULL), ERR_OK);
    (void)snprintf(text, sizeof text, "# who may in\n\n%s region-1\n  %s\n", one.public_key, other.public_key);
    put(f, text, 0644);
    assert_int_equal(link_peers_read(&keys, &count, f->file, NULL), ERR_OK);
    assert_int_equal(count, 2);
    assert_string_equal(keys[0].public_key, one.public_key);
    assert_string_equal(keys[0].name, "region-1");
    assert_string_equal(keys[1].public_key, other.public_key);
    assert_string_equal(keys[1].name, "");
    free(keys);
}

static void a_wrong_line_is_told_by_its_number(void **state)
{
    struct folder *f = *state;
    struct link_peer_key *keys = NULL;
    struct err e = {0};
    int count = 0;
    put(f, "# one\nnot-a-key region-1\n", 0644);
    assert_int_equal(link_peers_read(&keys, &count, f->file, &e), ERR_SYNTAX);
    assert_non_null(strstr(e.msg, ":2:"));
    assert_null(keys);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, folder_new, folder_free)
    const struct CMUnitTest tests[] = {
        TEST(a_pair_is_written_for_its_owner_only_and_read_back),
        TEST(a_key_file_is_never_overwritten),
        TEST(a_file_that_others_may_read_is_refused),
        TEST(damaged_key_files_are_refused),
        TEST(allowed_keys_are_read_with_their_names),
        TEST(a_wrong_line_is_told_by_its_number),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
