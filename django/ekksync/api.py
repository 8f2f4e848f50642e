"""The REST endpoints of the sync functions that ekksync replaces, in the forms
that their callers know.  What they do is SQL; here are only the forms."""

from rest_framework.authentication import TokenAuthentication
from rest_framework.decorators import api_view, authentication_classes, parser_classes, permission_classes, renderer_classes
from rest_framework.parsers import JSONParser
from rest_framework.permissions import IsAdminUser
from rest_framework.renderers import JSONRenderer
from rest_framework.response import Response

from django.utils.dateparse import parse_date, parse_datetime

from . import sql

# Where the flat form of a member, as the endpoint gives it, comes from: the
# name there, the path in the document; those of the second list are left out
# where there is no value.
MEMBER_FIELDS = (
    ('name', 'profile.name'),
    ('birthday', 'profile.birthday'),
    ('gender', 'profile.gender'),
    ('housing_situation', 'profile.housingSituation'),
    ('reachable', 'membership.reachable'),
    ('groupable', 'membership.groupable'),
    ('date_joined', 'membership.date_joined'),
)
CONTACT_FIELDS = (
    ('email', 'profile.email'),
    ('phone', 'profile.phone'),
    ('street_address', 'address.street'),
    ('postal_code', 'address.postal_code'),
    ('city', 'address.city'),
)


DENIED = "Django's database role may not do this: "


def endpoint(method):
    """A view for administrators with a token, that takes and gives JSON."""
    def decorate(view):
        def answer(request, *args, **kwargs):
            try:
                return view(request, *args, **kwargs)
            except sql.SqlError as error:
                status = _http_status(error.sqlstate)
                if status is None:
                    raise
                text = error.full()
                return problem(DENIED + text if status == 403 else text, status)

        answer.__name__ = view.__name__
        answer.__doc__ = view.__doc__
        for wrap in (renderer_classes([JSONRenderer]), parser_classes([JSONParser]),
                     permission_classes([IsAdminUser]), authentication_classes([TokenAuthentication])):
            answer = wrap(answer)
        return api_view([method])(answer)
    return decorate


def _http_status(sqlstate):
    """What PostgreSQL says of the request itself, and not of the server."""
    if sqlstate[:2] == '22':
        return 400
    if sqlstate[:2] == '55' or sqlstate in ('21000', '53400', '40001', '40P01'):
        return 409
    if sqlstate == '42501':
        return 403
    return None


def problem(text, status):
    return Response({'error': text}, status=status)


def timestamp(when):
    return when.isoformat() if when else None


@endpoint('GET')
def changes(request):
    """Pending changes.  since must be a time, and hides none of them."""
    since = request.GET.get('since')
    if since and not _is_time(since):
        return problem('Invalid since parameter format. Use ISO 8601 format (e.g., 2025-11-14T12:00:00Z).', 400)
    found = sql.changes()
    for one in found:
        one['created_at'] = timestamp(one['created_at'])
    return Response({'changes': found, 'count': len(found)})


def _is_time(text):
    try:
        return (parse_datetime(text) or parse_date(text)) is not None
    except ValueError:
        return False


@endpoint('POST')
def apply(request):
    """Changes of Firestore: one result for each."""
    results = []
    for one in sql.apply(request.data):
        result = {'ssn': one['ssn'], 'status': one['status']}
        if one['status'] == 'success':
            result['updated_fields'] = one['updated_fields'] or []
        else:
            result['message'] = one['message']
        results.append(result)
    return Response({'results': results})


@endpoint('POST')
def mark_synced(request):
    """Pending rows that are done: how many they were."""
    if not isinstance(request.data, dict):
        return problem('Invalid request body', 400)
    ids = request.data.get('sync_ids')
    if ids is None or ids == []:
        return problem('No sync_ids provided', 400)
    if not isinstance(ids, list) or not all(_is_id(one) for one in ids):
        return problem('sync_ids must be a list of numbers', 400)
    return Response({'success': True, 'marked_synced': sql.mark_synced(int(one) for one in ids)})


def _is_id(one):
    """A number, or text that is one, as old callers may send; no boolean."""
    if isinstance(one, str):
        return one.isascii() and one.isdigit() and len(one) < 19
    return type(one) is int and abs(one) < 2 ** 63


@endpoint('GET')
def status(request):
    found = sql.status()
    return Response({
        'pending': found['pending'],
        'synced': found['synced'],
        'failed': found['failed'],
        'oldest_pending': timestamp(found['oldest_pending']),
    })


@endpoint('GET')
def member(request, ssn):
    """A member: flat, and as its document would be."""
    key = sql.plain_key(ssn)
    document = sql.member(key) if len(key) == 10 and key.isascii() and key.isdigit() else None
    if document is None:
        return problem('Member not found', 404)
    options = sql.enum_options()
    answer = {'ssn': key}
    for name, path in MEMBER_FIELDS + CONTACT_FIELDS:
        found = _at(document, path)
        if found is None and (name, path) in CONTACT_FIELDS:
            continue
        if isinstance(found, str) and name in options:
            found = options[name].get(found, found)
        if name == 'date_joined' and isinstance(found, str) and found.endswith('Z'):
            found = found[:-1] + '+00:00'
        answer[name] = found
    answer.update(document)
    return Response(answer)


def _at(document, path):
    for key in path.split('.'):
        document = document.get(key) if isinstance(document, dict) else None
    return document
