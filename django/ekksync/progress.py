"""The one line that says how the sync stands."""

from django.utils import timezone
from django.utils.translation import gettext as _, ngettext, pgettext

from . import sql

HEALTH = {
    'ok': lambda: pgettext('health', 'in order'),
    'observe': lambda: pgettext('health', 'only observing'),
    'degraded': lambda: pgettext('health', 'needs attention'),
    'paused': lambda: pgettext('health', 'paused'),
    'detached': lambda: pgettext('health', 'not attached'),
}
PHASES = {
    'start': lambda: _('starting'),
    'stage': lambda: _('reading changes from Firestore'),
    'scan': lambda: _('scanning documents'),
    'survey': lambda: _('looking at all members first'),
    'members': lambda: _('members'),
    'compare': lambda: _('comparing members'),
    'close': lambda: _('closing entries'),
    'clean': lambda: _('cleaning up'),
}


def moment(when):
    """A time as text, to the second, in the zone of who looks."""
    if when is None:
        return '–'
    if timezone.is_aware(when):
        when = timezone.localtime(when)
    return when.strftime('%Y-%m-%d %H:%M:%S')


def sentence(text):
    """What PostgreSQL's messages are not: with a capital and a full stop."""
    return text[:1].upper() + text[1:] + ('' if text[-1:] in '.?!' else '.')


def _running(work):
    phase = PHASES.get(work['phase'], lambda: work['phase'])()
    done, total = work['done'] or 0, work['total']
    if total:
        text = _('Run %(run)d is at work: %(phase)s, %(done)d of %(total)d')
    else:
        text = _('Run %(run)d is at work: %(phase)s, %(done)d')
    text %= {'run': work['run'], 'phase': phase, 'done': done, 'total': total or 0}
    if work['eta']:
        text += ' (%s)' % (_('%(seconds)d s left') % {'seconds': work['eta'].total_seconds()})
    return {'running': True, 'run': work['run'], 'line': text, 'good': True,
            'percent': min(100, int(100 * done / total)) if total else None}


def _outcome(record):
    """What came of a run."""
    if record['status'] in ('running', 'interrupted'):
        return _('Run %(run)d was interrupted; the next one goes on.') % record, False
    if record['status'] == 'success':
        text = _('Run %(run)d succeeded: %(to_firestore)d members to Firestore, %(to_django)d to Django.') % record
        failed = record['to_firestore_failed'] + record['to_django_failed']
        if failed:
            text += ' ' + ngettext('%d change failed.', '%d changes failed.', failed) % failed
        return text, not failed
    text = _('Run %(run)d failed') if record['status'] == 'failed' else _('Run %(run)d stopped')
    return '%s: %s' % (text % record, record['error'] or ''), False


def _idle(status):
    health = HEALTH.get(status['health'], lambda: status['health'])()
    text = _('Sync: %(health)s. %(pending)d pending, %(failed)d failed.') % {
        'health': health, 'pending': status['pending'] or 0, 'failed': status['failed'] or 0}
    if status['health'] not in ('ok', 'observe') and status['reason']:
        text += ' ' + sentence(status['reason'])
    if status['next_run']:
        text += ' ' + _('Next run: %s.') % moment(status['next_run'])
    return {'running': False, 'run': status['last_run'], 'line': text, 'percent': None,
            'good': status['health'] in ('ok', 'observe')}


def line(run=None):
    """How it stands; of a run, if one is given that has ended, what came of it."""
    try:
        work = sql.progress()
        if work:
            return _running(work)
        if run is not None:
            record = sql.run(run)
            # a run that has just begun, or just ended, since progress() looked
            if record and record['at_work']:
                work = sql.progress()
                if work:
                    return _running(work)
                record = sql.run(run)
            if record:
                text, good = _outcome(record)
                return {'running': False, 'run': run, 'line': text, 'percent': None, 'good': good}
        return _idle(sql.status())
    except sql.SqlError as error:
        return {'running': False, 'run': None, 'line': error.full(), 'percent': None, 'good': False}
