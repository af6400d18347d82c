/*
** fieldsync's device end as a static library (`make static`), for iOS and for programs that link SQLite themselves.
**
** It uses the SQLite that the program is linked with: 3.34.1 or later, SQLCipher too. One call, before any database is
** opened, makes fs_init(), fs_track(), fs_export_delta(), fs_apply_delta() and the others known to every connection:
**
**     #include <sqlite3.h>
**     #include "fieldsync.h"
**
**     sqlite3_auto_extension((void (*)(void))sqlite3_sqlitefieldsync_init);
**
** Or to one open connection, each time that one is opened:
**
**     char *error = NULL;
**     if (sqlite3_sqlitefieldsync_init(db, &error, NULL) != SQLITE_OK) {
**         fprintf(stderr, "%s\n", error);
**         sqlite3_free(error);
**     }
*/
#ifndef FIELDSYNC_H
#define FIELDSYNC_H

#ifdef __cplusplus
extern "C" {
#endif

struct sqlite3;
struct sqlite3_api_routines;

/*
** Makes fieldsync's SQL functions known to a connection; again is harmless. Gives SQLITE_OK or another result code of
** SQLite's; with the latter, and unless pzErrMsg is NULL, *pzErrMsg is a text to be freed with sqlite3_free().
** pApi is not used and may be NULL.
*/
int sqlite3_sqlitefieldsync_init(struct sqlite3 *db, char **pzErrMsg, const struct sqlite3_api_routines *pApi);

#ifdef __cplusplus
}
#endif

#endif
