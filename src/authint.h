/*
 * authint.h
 *		What the files that get access tokens share; for no one else.
 *
 *	 auth.c			the token: asked for, kept, renewed
 *	 authkey.c		the request by a service account's key file
 *	 authsecret.c	secrets in memory and in messages
 */
#ifndef EKKSYNC_AUTHINT_H
#define EKKSYNC_AUTHINT_H

#include <cjson/cJSON.h>

#include "ekksync.h"
#include "http.h"

/* Largest key file and largest answer in bytes; real ones have about 2,500. */
#define AUTH_MAX_TEXT (64 * 1024)

/* A request for a token. */
typedef struct AuthGrant
{
	HttpRequest request;
	const char *server; /* who is asked, for people */
	const char *origin; /* where the token is from, for people */
} AuthGrant;

/* ---- authkey.c ---- */

/*
 * Make the request for a token by the service account's key file at path, in
 * the current memory context, which guards it; no copy of the key is left.
 * name is what names the file: it is in messages in place of the path.  False
 * with *err when the file is of no use.
 */
extern bool auth_key_grant(AuthGrant *grant, const char *path,
						   const char *name, SyncError *err);

/* ---- authsecret.c ---- */

/* Overwrite len bytes at data before the current memory context is freed. */
extern void auth_guard(void *data, size_t len);

/*
 * Parse an object with secrets in it; it is overwritten and freed with the
 * current memory context.  NULL when it is not a JSON object.
 */
extern const cJSON *auth_parse(const char *text, size_t len);

/*
 * A member that is a plain string: printable ASCII without spaces, which can
 * neither end a header nor spoil a message.  NULL if there is none, or object
 * is NULL.
 */
extern const char *auth_string(const cJSON *object, const char *name);

/*
 * Text from outside made fit for a message, in the current memory context:
 * short, printable ASCII, and without anything as long as a token or a
 * statement, should a server repeat one.
 */
extern char *auth_safe_text(const char *text);

#endif /* EKKSYNC_AUTHINT_H */
