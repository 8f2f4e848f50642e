/*
 * authsecret.c
 *		Memory that holds secrets, and text that must not show them.
 *
 * May not know: what the secrets are for.
 */
#include "postgres.h"

#include "authint.h"
#include "lib/stringinfo.h"

/* Texts of this many letters without a space may be secrets. */
#define SECRET_LEN 64

/* Longest text from outside that is passed on. */
#define SAFE_LEN 200

/* Something to overwrite when its memory context goes. */
typedef struct Secret
{
	MemoryContextCallback callback;
	void *data; /* palloc'd, or NULL */
	size_t len;
	cJSON *json; /* an object of strings, or NULL */
} Secret;

static void
secret_wipe(void *arg)
{
	Secret *secret = arg;
	cJSON *child;

	if (secret->data != NULL)
		explicit_bzero(secret->data, secret->len);
	cJSON_ArrayForEach (child, secret->json)
	{
		if (cJSON_IsString(child))
			explicit_bzero(child->valuestring, strlen(child->valuestring));
	}
	cJSON_Delete(secret->json);
}

/* Have secret_wipe called before the current memory context is freed. */
static Secret *
secret_create(void)
{
	Secret *secret = palloc0(sizeof(Secret));

	secret->callback.func = secret_wipe;
	secret->callback.arg = secret;
	MemoryContextRegisterResetCallback(CurrentMemoryContext,
									   &secret->callback);
	return secret;
}

void
auth_guard(void *data, size_t len)
{
	Secret *secret = secret_create();

	secret->len = len;
	secret->data = data;
}

const cJSON *
auth_parse(const char *text, size_t len)
{
	Secret *secret = secret_create();

	secret->json = cJSON_ParseWithLength(text, len);
	return cJSON_IsObject(secret->json) ? secret->json : NULL;
}

const char *
auth_string(const cJSON *object, const char *name)
{
	const char *text;

	text =
		cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(object, name));
	if (text == NULL || *text == '\0')
		return NULL;
	for (const char *s = text; *s; s++)
	{
		if (*s <= ' ' || *s > '~')
			return NULL;
	}
	return text;
}

char *
auth_safe_text(const char *text)
{
	StringInfoData safe;

	initStringInfo(&safe);
	while (*text && safe.len < SAFE_LEN)
	{
		size_t len = strcspn(text, " \t\r\n\"':,;()");

		if (len >= SECRET_LEN)
			appendStringInfoString(&safe, "[...]");
		for (size_t i = 0; i < len && len < SECRET_LEN; i++)
			appendStringInfoChar(&safe, text[i] > ' ' && text[i] <= '~'
											? text[i]
											: '?');
		text += len;
		if (*text)
		{
			appendStringInfoChar(&safe, *text < ' ' ? ' ' : *text);
			text++;
		}
	}
	return safe.data;
}
