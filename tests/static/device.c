/*
** What an app without loadable extensions does: it links the static library, registers it once, and syncs by SQL.
**
**     device <database> <enrolment> <delta>            sets up, tracks, writes, exports
**     device <database> <enrolment> <delta> <reply>    applies a reply, and prints what the table holds then
**
** tests/test_device_static.py compiles it, and carries the two blobs.
*/
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fieldsync.h"

static void fail(const char *what, const char *text) {
    fprintf(stderr, "%s: %s\n", what, text ? text : "?");
    exit(1);
}

static void run(sqlite3 *db, const char *sql) {
    char *error = NULL;
    if (sqlite3_exec(db, sql, NULL, NULL, &error) != SQLITE_OK) fail(sql, error);
}

/* The first row of a statement with at most one parameter. The caller finalizes. */
static sqlite3_stmt *ask(sqlite3 *db, const char *sql, const void *parameter, int bytes) {
    sqlite3_stmt *statement = NULL;
    if (sqlite3_prepare_v2(db, sql, -1, &statement, NULL) != SQLITE_OK) fail(sql, sqlite3_errmsg(db));
    if (parameter && bytes < 0) sqlite3_bind_text(statement, 1, parameter, -1, SQLITE_STATIC);
    if (parameter && bytes >= 0) sqlite3_bind_blob(statement, 1, parameter, bytes, SQLITE_STATIC);
    if (sqlite3_step(statement) != SQLITE_ROW) fail(sql, sqlite3_errmsg(db));
    return statement;
}

static void print(sqlite3 *db, const char *sql) {
    sqlite3_stmt *statement = ask(db, sql, NULL, 0);
    do printf("%s\n", (const char *)sqlite3_column_text(statement, 0));
    while (sqlite3_step(statement) == SQLITE_ROW);
    sqlite3_finalize(statement);
}

/* Calls that must fail, each with its own code and a text that begins with the function's name. */
static void check_errors(const char *path, sqlite3 *db) {
    sqlite3 *other = NULL;
    char *error = NULL;
    if (sqlite3_exec(db, "SELECT fs_track(NULL)", NULL, NULL, &error) != SQLITE_ERROR) fail("fs_track", "no error");
    if (strncmp(error, "fs_track: ", 10) != 0) fail("fs_track", error);
    sqlite3_free(error);
    if (sqlite3_open(path, &other) != SQLITE_OK) fail("open", sqlite3_errmsg(other));
    run(other, "BEGIN IMMEDIATE");
    if (sqlite3_exec(db, "SELECT fs_export_delta()", NULL, NULL, &error) != SQLITE_BUSY) fail("a busy database", error);
    if (strncmp(error, "fs_export_delta: ", 17) != 0) fail("fs_export_delta", error);
    sqlite3_free(error);
    sqlite3_close(other);
}

int main(int count, char **arguments) {
    sqlite3 *db = NULL;
    sqlite3_stmt *statement;
    FILE *file;
    if (count != 4 && count != 5) fail("usage", "device <database> <enrolment> <delta> [<reply>]");

    /* The one call. A connection that is open already can be given the functions too; twice is harmless. */
    if (sqlite3_auto_extension((void (*)(void))sqlite3_sqlitefieldsync_init) != SQLITE_OK) fail("register", NULL);
    if (sqlite3_open(arguments[1], &db) != SQLITE_OK) fail("open", sqlite3_errmsg(db));
    if (sqlite3_sqlitefieldsync_init(db, NULL, NULL) != SQLITE_OK) fail("register again", sqlite3_errmsg(db));
    char *error = NULL;
    if (sqlite3_sqlitefieldsync_init(NULL, &error, NULL) != SQLITE_MISUSE || !error) fail("no connection", error);
    sqlite3_free(error);

    if (count == 4) {
        run(db, "CREATE TABLE visits(id TEXT PRIMARY KEY NOT NULL, village TEXT, weight REAL, photo BLOB)");
        sqlite3_finalize(ask(db, "SELECT fs_init('phone', ?1)", arguments[2], -1));
        run(db, "SELECT fs_track('visits')");
        run(db, "INSERT INTO visits VALUES ('v1', 'Kati', 12.5, x'00ff'), ('v2', 'Kita', NULL, NULL)");
        run(db, "UPDATE visits SET village = 'Kayes' WHERE id = 'v2'");
        check_errors(arguments[1], db);
        statement = ask(db, "SELECT fs_export_delta()", NULL, 0);
        file = fopen(arguments[3], "wb");
        if (!file) fail("cannot write", arguments[3]);
        fwrite(sqlite3_column_blob(statement, 0), 1, (size_t)sqlite3_column_bytes(statement, 0), file);
        fclose(file);
        sqlite3_finalize(statement);
        print(db, "SELECT operation || ' ' || row_id FROM sync_queue ORDER BY queue_id");
    } else {
        static char reply[1 << 20];
        file = fopen(arguments[4], "rb");
        if (!file) fail("cannot read", arguments[4]);
        int bytes = (int)fread(reply, 1, sizeof reply, file);
        fclose(file);
        statement = ask(db, "SELECT fs_apply_delta(?1)", reply, bytes);
        printf("%s\n", (const char *)sqlite3_column_text(statement, 0));
        sqlite3_finalize(statement);
        print(db, "SELECT line FROM (SELECT id || '|' || village || '|' || ifnull(weight, '') || '|' "
                  "|| ifnull(hex(photo), '') AS line FROM visits ORDER BY id)");
    }
    print(db, "SELECT fs_version()");
    return sqlite3_close(db) == SQLITE_OK ? 0 : 1;
}
