/*
 * auth.h
 *		Access tokens for the Firestore service.
 */
#ifndef EKKSYNC_AUTH_H
#define EKKSYNC_AUTH_H

#include "ekksync.h"

/*
 * An access token, as FsTokenSource wants it: from the service account's key
 * file that ekksync.credentials or GOOGLE_APPLICATION_CREDENTIALS names, or,
 * when neither is set, from the metadata server of Google's machines.
 *
 * The token of an earlier call is returned until a minute before its end;
 * with refresh another one is asked for.  It belongs to this file and is
 * valid until the next call.  NULL with *err, in the current memory context,
 * when there is none; neither path nor key nor token is in its message.
 *
 * May wait for a server, as http_perform does, and throws what interrupts
 * throw.  arg is not used.
 */
extern const char *auth_token(void *arg, bool refresh, SyncError *err);

/*
 * Where the token that auth_token returned last is from, in words; valid as
 * long as that.
 */
extern const char *auth_origin(void);

#endif /* EKKSYNC_AUTH_H */
