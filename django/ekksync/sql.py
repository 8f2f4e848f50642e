"""The extension's SQL functions, as Python functions.

Nothing here knows what they do.  Values of type jsonb come as text from one
driver and decoded from another, so queries ask for text, and decode it here.
"""

import json
import re
from contextlib import nullcontext

from django.db import DatabaseError, connections, router, transaction


class SqlError(Exception):
    """What PostgreSQL refused: sqlstate, message, detail, hint."""

    def __init__(self, cause):
        diag = getattr(cause, 'diag', None)
        self.sqlstate = getattr(cause, 'pgcode', None) or getattr(cause, 'sqlstate', None) or ''
        self.message = getattr(diag, 'message_primary', None) or str(cause).strip()
        self.detail = getattr(diag, 'message_detail', None) or ''
        self.hint = getattr(diag, 'message_hint', None) or ''
        super().__init__(self.message)

    def full(self):
        """Message, detail and hint as one text."""
        message = self.message + ('. ' if self.detail or self.hint else '')
        return message + ' '.join(part for part in (self.detail, self.hint) if part)


def database():
    """The alias of the database that has the queue."""
    from .models import MemberSyncQueue

    return router.db_for_write(MemberSyncQueue)


def rows(query, params=(), savepoint=True):
    """The rows of a query as dictionaries; SqlError where it fails, after
    which the surrounding transaction, if there is one, goes on."""
    alias = database()
    connection = connections[alias]
    guard = transaction.atomic(using=alias) if savepoint and connection.in_atomic_block else nullcontext()
    try:
        with guard, connection.cursor() as cursor:
            cursor.execute(query, params)
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row)) for row in cursor.fetchall()]
    except DatabaseError as error:
        raise SqlError(error.__cause__ or error) from error


def row(query, params=()):
    return rows(query, params)[0]


def value(query, params=()):
    return next(iter(row(query, params).values()))


def decoded(found, *names):
    """Rows with the JSON text of some columns decoded."""
    for one in found:
        for name in names:
            if isinstance(one[name], str):
                one[name] = json.loads(one[name])
    return found


def plain_key(text):
    """A kennitala without its hyphen; anything else as it stands."""
    text = (text or '').strip()
    return re.sub(r'\A(\d{6})-(\d{4})\Z', r'\1\2', text)


# ------------------------------------------------------------------ functions

def status():
    return row('SELECT * FROM ekksync_status()')


def changes():
    return decoded(rows('SELECT id, ssn, action, fields_changed::text AS fields_changed, created_at'
                        ' FROM ekksync_changes()'), 'fields_changed')


def apply(body):
    """body: what was sent to the endpoint, decoded."""
    return rows('SELECT ssn, status, updated_fields, message'
                ' FROM ekksync_apply(%s::jsonb) ORDER BY ordinal', [json.dumps(body)])


def mark_synced(ids):
    return value('SELECT ekksync_mark_synced(%s::bigint[])', [list(ids)])


def member(key):
    """The member as its document would be; None if there is none."""
    found = value('SELECT ekksync_member(%s)::text', [key])
    return None if found is None else json.loads(found)


def enum_options():
    """Field to {label: code}, for the fields that have a list of labels."""
    found = decoded(rows('SELECT field, options::text AS options FROM ekksync_mapping'
                         ' WHERE options IS NOT NULL'), 'options')
    return {one['field']: one['options'] for one in found}


def retry(ids):
    return value('SELECT ekksync_retry(%s::bigint[])', [list(ids)])


def resolve(conflict, take):
    return value('SELECT ekksync_resolve(%s, take => %s)', [conflict, take])


def cleanup(days=None):
    """Removes what is old; what, and how much of it."""
    found = rows('SELECT what, removed FROM ekksync_cleanup(%s)', [days])
    return {one['what']: one['removed'] for one in found}


def check():
    return rows('SELECT "check", ok, detail, hint FROM ekksync_check()')


def diff():
    return decoded(rows('SELECT member, field, django_value::text AS django_value,'
                        ' firestore_value::text AS firestore_value, why, detail'
                        ' FROM ekksync_diff()'), 'django_value', 'firestore_value')


def history(key, field=None):
    return decoded(rows('SELECT at, what, field, old_value::text AS old_value,'
                        ' new_value::text AS new_value, run, detail'
                        ' FROM ekksync_history(%s, %s)', [key, field or None]),
                   'old_value', 'new_value')


def start_run(direction='both', dry_run=False, only=None, force=False):
    """Starts a run and does not wait for it; its number."""
    return row('SELECT run FROM ekksync_run(%s, dry_run => %s, wait => false,'
               ' "only" => %s::text[], force => %s)', [direction, dry_run, only, force])['run']


def progress():
    """The run that is at work, or None."""
    found = rows('SELECT run, mode, phase, done, total, rate, eta, elapsed FROM ekksync_progress')
    return found[0] if found else None


def run(number):
    """A run's record, or None; 'at_work' says whether a process works on it."""
    found = rows('SELECT r.*, p.run IS NOT NULL AS at_work FROM ekksync_runs AS r'
                 ' LEFT JOIN ekksync_progress AS p ON p.run = r.run WHERE r.run = %s', [number])
    return found[0] if found else None


def plan(number):
    return decoded(rows('SELECT member, side, field, old_value::text AS old_value,'
                        ' new_value::text AS new_value, note FROM ekksync_plan WHERE run = %s', [number]),
                   'old_value', 'new_value')


def phases(number):
    return rows('SELECT phase, duration, done, requests, retries, docs_read, docs_written'
                ' FROM ekksync_phases WHERE run = %s', [number])
