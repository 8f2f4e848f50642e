/*
 * notes.c
 *		Compares rows, and puts together the fields of a queue row.
 *
 * Part of the capture triggers: cheap, and throws no error for what a value
 * is.  Does not know whose row it is or why it is noted.
 */
#include "postgres.h"

#include "capture.h"
#include "catalog/pg_type.h"
#include "notes.h"
#include "outbox.h"
#include "utils/datum.h"
#include "utils/json.h"
#include "utils/lsyscache.h"

bool
attr_differs(TupleTableSlot *old, TupleTableSlot *new, AttrNumber attnum)
{
	Form_pg_attribute att =
		TupleDescAttr(new->tts_tupleDescriptor, attnum - 1);
	bool old_isnull;
	bool new_isnull;
	Datum a = slot_getattr(old, attnum, &old_isnull);
	Datum b = slot_getattr(new, attnum, &new_isnull);

	if (old_isnull || new_isnull)
		return old_isnull != new_isnull;
	return !datum_image_eq(a, b, att->attbyval, att->attlen);
}

bool
row_differs(TupleTableSlot *old, TupleTableSlot *new)
{
	TupleDesc desc = new->tts_tupleDescriptor;
	int i;

	for (i = 0; i < desc->natts; i++)
	{
		if (!TupleDescAttr(desc, i)->attisdropped &&
			attr_differs(old, new, i + 1))
			return true;
	}
	return false;
}

/* Did a watched field change?  A computed one does with any column. */
static bool
field_differs(const WatchedField *watched, TupleTableSlot *old,
			  TupleTableSlot *new)
{
	if (watched->attnum == 0)
		return row_differs(old, new);
	return attr_differs(old, new, watched->attnum);
}

bool
any_field_differs(const Watched *watched, TupleTableSlot *old,
				  TupleTableSlot *new)
{
	int i;

	for (i = 0; i < watched->nfields; i++)
	{
		if (field_differs(&watched->fields[i], old, new))
			return true;
	}
	return false;
}

/*
 * A value as JSON, for a value that has no canonical form (a code outside an
 * enum): the run will say what is wrong with it.
 */
static char *
plain_json(Datum value, Oid typid)
{
	Oid output;
	bool varlena;
	char *text;
	StringInfoData json;

	getTypeOutputInfo(typid, &output, &varlena);
	text = OidOutputFunctionCall(output, value);
	if (typid == INT2OID || typid == INT4OID || typid == INT8OID)
		return text;
	initStringInfo(&json);
	escape_json(&json, text);
	return json.data;
}

static char *
field_value(const Field *field, Datum value, bool isnull)
{
	char *canon = NULL;

	if (isnull)
		return CANON_NULL;
	if (field->problem == NULL)
		canon =
			value_from_datum(&field->codec, value, isnull, field->typid, NULL);
	return canon ? canon : plain_json(value, field->typid);
}

void
notes_init(Notes *notes)
{
	initStringInfo(&notes->json);
	initStringInfo(&notes->error);
	appendStringInfoChar(&notes->json, '{');
	notes->nfields = 0;
}

void
note_error(Notes *notes, const char *error)
{
	if (error == NULL || strstr(notes->error.data, error) != NULL)
		return;
	if (notes->error.len > 0)
		appendStringInfoString(&notes->error, "; ");
	appendStringInfoString(&notes->error, error);
}

/* A field's new value, unless the run in this process is writing it. */
static void
note_field(Notes *notes, const char *key, const Field *field, Datum value,
		   bool isnull)
{
	char *canon = field_value(field, value, isnull);

	if (capture_expected(key, field->name, canon))
		return;
	if (notes->nfields++ > 0)
		appendStringInfoChar(&notes->json, ',');
	escape_json(&notes->json, field->name);
	appendStringInfoChar(&notes->json, ':');
	appendStringInfoString(&notes->json, canon);
	note_error(notes, field->problem);
}

void
note_slot(Notes *notes, const char *key, const Mapping *mapping,
		  const WatchedField *watched, TupleTableSlot *slot)
{
	Datum value = (Datum) 0;
	bool isnull = true;

	if (slot != NULL && watched->attnum != 0)
		value = slot_getattr(slot, watched->attnum, &isnull);
	note_field(notes, key, &mapping->fields[watched->field], value, isnull);
}

/* The fields that an UPDATE changed. */
void
note_changed(Notes *notes, const char *key, const Mapping *mapping,
			 const Watched *watched, TupleTableSlot *old, TupleTableSlot *new)
{
	int i;

	for (i = 0; i < watched->nfields; i++)
	{
		if (field_differs(&watched->fields[i], old, new))
			note_slot(notes, key, mapping, &watched->fields[i], new);
	}
}

/* Write the row that the notes are for. */
void
notes_write(Notes *notes, const Mapping *mapping, const char *action,
			const Owner *owner, bool keep_id)
{
	OutboxRow row;

	note_error(notes, owner->error);
	appendStringInfoChar(&notes->json, '}');
	row.member_id = owner->id;
	row.no_member = !keep_id || owner->id_isnull;
	row.key = owner->key;
	row.action = action;
	row.fields = notes->json.data;
	row.error = notes->error.data;
	outbox_write(mapping, &row);
}
