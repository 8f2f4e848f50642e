/*
 * authkey.c
 *		A service account's key file, and the request for a token by it: a
 *		statement signed with the key, as RFC 7523 describes.
 *
 * May not know: how requests are sent.
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>

#include "authint.h"
#include "common/base64.h"
#include "lib/stringinfo.h"
#include "storage/fd.h"
#include "utils/json.h"
#include "utils/memutils.h"

#define SCOPE "https://www.googleapis.com/auth/datastore"
#define GRANT_TYPE "urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer"

/* Largest signature in bytes: of a key of 8192 bits. */
#define MAX_SIGNATURE 1024

/* Life of a signed statement in seconds, the longest that is allowed. */
#define STATEMENT_LIFE 3600

/* ---- the key file ---- */

/*
 * May secrets be read from this file?  As PostgreSQL wants it of
 * ssl_key_file.  Returns what is wrong, or NULL.
 */
static const char *
file_problem(const struct stat *st)
{
	if (!S_ISREG(st->st_mode))
		return "is not a regular file";
	if (st->st_uid != geteuid() && st->st_uid != 0)
		return "must belong to the server's user or to root";
	if (st->st_uid == geteuid()
			? (st->st_mode & (S_IRWXG | S_IRWXO)) != 0
			: (st->st_mode & (S_IWGRP | S_IXGRP | S_IRWXO)) != 0)
		return "is open to other users: its mode must be 0600 or less, or "
			   "0640 or less if root owns it";
	if (st->st_size > AUTH_MAX_TEXT)
		return "is too large for a key file";
	return NULL;
}

/*
 * Read a key file and parse it, into the current memory context.  NULL with
 * *problem, what is wrong with the file.
 */
static const cJSON *
read_key_file(const char *path, const char **problem)
{
	struct stat st;
	const cJSON *json = NULL;
	char *text;
	ssize_t len;
	int fd;

	/* without O_NONBLOCK a FIFO would be waited for */
	fd = OpenTransientFile(path, O_RDONLY | O_NONBLOCK | PG_BINARY);
	if (fd < 0 || fstat(fd, &st) != 0)
		*problem = psprintf("cannot be opened: %s", strerror(errno));
	else
		*problem = file_problem(&st);
	if (*problem == NULL)
	{
		text = palloc(AUTH_MAX_TEXT);
		auth_guard(text, AUTH_MAX_TEXT);
		len = read(fd, text, AUTH_MAX_TEXT);
		if (len < 0)
			*problem = psprintf("cannot be read: %s", strerror(errno));
		else if ((json = auth_parse(text, len)) == NULL)
			*problem = "is not a JSON object";
	}
	if (fd >= 0)
		CloseTransientFile(fd);
	return json;
}

/* ---- the signed statement ---- */

/* Append bytes in base64url, unpadded; the room for it must be there. */
static void
append_base64url(StringInfo out, const void *data, int len)
{
	char *text = out->data + out->len;
	int n = pg_b64_encode(data, len, text, out->maxlen - out->len - 1);

	Assert(n >= 0);
	while (n > 0 && text[n - 1] == '=')
		n--;
	for (int i = 0; i < n; i++)
		text[i] = text[i] == '+' ? '-' : text[i] == '/' ? '_' : text[i];
	text[n] = '\0';
	out->len += n;
}

/* For a key that has a passphrase: there is none, and nobody to be asked. */
static int
no_passphrase(char *buf, int size, int rwflag, void *arg)
{
	return 0;
}

/*
 * Sign text with an RSA key in PEM, by PKCS #1 v1.5 and SHA-256.  Nothing in
 * here can throw, so that OpenSSL's objects need no other care.  Returns the
 * length of the signature, 0 when the key is of no use.
 */
static size_t
sign_rs256(const char *pem, const void *text, size_t len,
		   unsigned char *signature)
{
	size_t result = MAX_SIGNATURE;
	BIO *bio = BIO_new_mem_buf(pem, -1);
	EVP_MD_CTX *md = EVP_MD_CTX_new();
	EVP_PKEY *key = NULL;

	if (bio != NULL)
		key = PEM_read_bio_PrivateKey(bio, NULL, no_passphrase, NULL);
	if (key == NULL || md == NULL || EVP_PKEY_base_id(key) != EVP_PKEY_RSA ||
		EVP_PKEY_size(key) > MAX_SIGNATURE ||
		EVP_DigestSignInit(md, NULL, EVP_sha256(), NULL, key) != 1 ||
		EVP_DigestSign(md, signature, &result, text, len) != 1)
		result = 0;
	EVP_PKEY_free(key);
	EVP_MD_CTX_free(md);
	BIO_free(bio);
	ERR_clear_error();
	return result;
}

/* The statement's header and claims, as JSON. */
static void
make_statement(const cJSON *file, StringInfo header, StringInfo claims)
{
	const char *key_id = auth_string(file, "private_key_id");
	int64 now = (int64) time(NULL);

	initStringInfo(header);
	appendStringInfoString(header, "{\"alg\":\"RS256\",\"typ\":\"JWT\"");
	if (key_id != NULL)
	{
		appendStringInfoString(header, ",\"kid\":");
		escape_json(header, key_id);
	}
	appendStringInfoChar(header, '}');

	initStringInfo(claims);
	appendStringInfoString(claims, "{\"iss\":");
	escape_json(claims, auth_string(file, "client_email"));
	appendStringInfoString(claims, ",\"aud\":");
	escape_json(claims, auth_string(file, "token_uri"));
	appendStringInfo(claims,
					 ",\"scope\":\"%s\",\"iat\":" INT64_FORMAT
					 ",\"exp\":" INT64_FORMAT "}",
					 SCOPE, now, now + STATEMENT_LIFE);
}

/*
 * The body of the request: the statement as a signed JSON Web Token, in the
 * current memory context, guarded.  NULL when the key is of no use.
 */
static StringInfo
make_body(const cJSON *file)
{
	const cJSON *pem = cJSON_GetObjectItemCaseSensitive(file, "private_key");
	StringInfo body = makeStringInfo();
	StringInfoData header;
	StringInfoData claims;
	unsigned char signature[MAX_SIGNATURE];
	size_t len;
	int start;

	make_statement(file, &header, &claims);
	appendStringInfoString(body, "grant_type=" GRANT_TYPE "&assertion=");
	start = body->len;

	/* all room at once: what is guarded must not move */
	enlargeStringInfo(body, 2 + pg_b64_enc_len(header.len) +
								pg_b64_enc_len(claims.len) +
								pg_b64_enc_len(MAX_SIGNATURE));
	auth_guard(body->data, body->maxlen);
	append_base64url(body, header.data, header.len);
	appendStringInfoChar(body, '.');
	append_base64url(body, claims.data, claims.len);
	len = sign_rs256(pem->valuestring, body->data + start, body->len - start,
					 signature);
	appendStringInfoChar(body, '.');
	append_base64url(body, signature, (int) len);
	explicit_bzero(signature, sizeof(signature));
	return len > 0 ? body : NULL;
}

/* ---- the request ---- */

/* What is wrong with the content of a key file, or NULL. */
static const char *
content_problem(const cJSON *file)
{
	const char *type = auth_string(file, "type");

	if (type == NULL)
		return "has no type";
	if (strcmp(type, "authorized_user") == 0)
		return "is of type \"authorized_user\", a person's login: ekksync "
			   "needs the key of a service account";
	if (strcmp(type, "service_account") != 0)
		return psprintf(
			"is of type \"%s\": ekksync needs the key of a service account",
			auth_safe_text(type));
	if (auth_string(file, "client_email") == NULL)
		return "has no usable \"client_email\"";
	if (auth_string(file, "token_uri") == NULL)
		return "has no usable \"token_uri\"";
	if (!cJSON_IsString(cJSON_GetObjectItemCaseSensitive(file, "private_key")))
		return "has no \"private_key\"";
	return NULL;
}

/* Fill in a grant by a file whose content is in order; false as make_body. */
static bool
fill_grant(AuthGrant *grant, const cJSON *file, const char *name)
{
	StringInfo body = make_body(file);

	if (body == NULL)
		return false;
	grant->request.method = "POST";
	grant->request.url = pstrdup(auth_string(file, "token_uri"));
	grant->request.body = body->data;
	grant->request.body_len = body->len;
	grant->request.content_type = "application/x-www-form-urlencoded";
	grant->server =
		psprintf("the token server %s", auth_safe_text(grant->request.url));
	grant->origin =
		psprintf("service account %s, by the key file that %s names",
				 auth_string(file, "client_email"), name);
	return true;
}

bool
auth_key_grant(AuthGrant *grant, const char *path, const char *name,
			   SyncError *err)
{
	MemoryContext old = CurrentMemoryContext;
	MemoryContext key_cxt =
		AllocSetContextCreate(old, "ekksync key", ALLOCSET_DEFAULT_SIZES);
	const char *problem = NULL;
	const cJSON *file;

	MemoryContextSwitchTo(key_cxt);
	file = read_key_file(path, &problem);
	if (problem == NULL)
		problem = content_problem(file);
	MemoryContextSwitchTo(old);
	if (problem == NULL && !fill_grant(grant, file, name))
		problem = "has a private key that is not an RSA key in PEM";
	if (problem != NULL)
		sync_error(err, ERRCODE_CONFIG_FILE_ERROR,
				   "the key file that %s names %s", name, problem);
	MemoryContextDelete(key_cxt);
	return problem == NULL;
}
