"""manage.py ekksync status | run | check | diff | cleanup"""

import json
import sys
import time

from django.core.management.base import BaseCommand, CommandError

from ekksync import sql


def plain(value):
    """For JSON: what it has no form for, as text."""
    return value.isoformat() if hasattr(value, 'isoformat') else str(value)


class Command(BaseCommand):
    help = 'Shows and steers the sync with Firestore.'

    def add_arguments(self, parser):
        commands = parser.add_subparsers(dest='what', required=True)

        def add(name, text):
            one = commands.add_parser(name, help=text)
            one.add_argument('--json', action='store_true', help='print JSON')
            return one

        add('status', 'how things stand')
        run = add('run', 'one run; waits for its end, unless told otherwise; fails when the run fails')
        run.add_argument('--direction', choices=('both', 'to_firestore', 'to_django'), default='both')
        run.add_argument('--dry-run', action='store_true', help='only show what it would write')
        run.add_argument('--only', nargs='+', metavar='KENNITALA', help='only these members')
        run.add_argument('--force', action='store_true', help='let it pass the guard against mass damage')
        run.add_argument('--no-wait', action='store_true', help='only start it')
        add('check', 'each precondition of a run; fails when one is not met')
        add('diff', 'where the two sides differ, and why; fails when something is unexplained')
        clean = add('cleanup', 'remove what is older than it is to be kept')
        clean.add_argument('--days', type=int, help='of synced queue rows: days, instead of the setting')

    def handle(self, *args, **options):
        self.as_json = options['json']
        try:
            getattr(self, 'do_' + options['what'])(options)
        except sql.SqlError as error:
            raise CommandError('%s (%s)' % (error.full(), error.sqlstate))

    def print(self, text):
        self.stdout.write(text)

    def print_json(self, value):
        self.print(json.dumps(value, ensure_ascii=False, default=plain, indent=1))

    def print_row(self, row):
        width = max(map(len, row))
        for name, value in row.items():
            if isinstance(value, list):
                value = ', '.join(value)
            self.print('%-*s  %s' % (width, name, '' if value is None else value))

    def do_status(self, options):
        found = sql.status()
        self.print_json(found) if self.as_json else self.print_row(found)

    def do_check(self, options):
        found = sql.check()
        if self.as_json:
            self.print_json(found)
        else:
            for one in found:
                mark = {True: 'ok', False: 'NOT OK', None: '-'}[one['ok']]
                self.print('%-7s %s: %s' % (mark, one['check'], one['detail'] or ''))
                if one['ok'] is False and one['hint']:
                    self.print('        %s' % one['hint'])
        bad = [one['check'] for one in found if one['ok'] is False]
        if bad:
            raise CommandError('not met: ' + ', '.join(bad))

    def do_diff(self, options):
        found = sql.diff()
        if self.as_json:
            self.print_json(found)
        else:
            for one in found:
                self.print('%s %s: %s | %s (%s)' % (
                    one['member'], one['field'] or '*',
                    json.dumps(one['django_value'], ensure_ascii=False),
                    json.dumps(one['firestore_value'], ensure_ascii=False),
                    one['why'] + (': ' + one['detail'] if one['detail'] else '')))
            self.print('%d differences' % len(found) if len(found) != 1 else '1 difference')
        bad = sum(one['why'] == 'unexplained' for one in found)
        if bad:
            raise CommandError('unexplained: %d' % bad)

    def do_cleanup(self, options):
        found = sql.cleanup(options['days'])
        if self.as_json:
            self.print_json(found)
            return
        for what, removed in found.items():
            self.print('%s: %d' % (what, removed))
        if not found:
            self.print('nothing to remove')

    def do_run(self, options):
        number = sql.start_run(options['direction'], options['dry_run'], options['only'], options['force'])
        if options['no_wait']:
            self.print_json({'run': number}) if self.as_json else self.print('run %d started' % number)
            return
        try:
            record = self.wait(number)
        except KeyboardInterrupt:
            raise CommandError('run %d goes on' % number)
        plan = sql.plan(number) if options['dry_run'] else []
        if self.as_json:
            self.print_json({**record, 'plan': plan} if options['dry_run'] else record)
        else:
            for one in plan:
                self.print('%s: %s %s %s -> %s%s' % (
                    one['side'], one['member'], one['field'] or '',
                    json.dumps(one['old_value'], ensure_ascii=False),
                    json.dumps(one['new_value'], ensure_ascii=False),
                    ' (%s)' % one['note'] if one['note'] else ''))
            self.print('run %(run)d: %(status)s, %(to_firestore)d to Firestore, %(to_django)d to Django,'
                       ' %(conflicts)d conflicts, %(failed)d failed' % {
                           **record, 'failed': record['to_firestore_failed'] + record['to_django_failed']})
        if record['status'] != 'success':
            raise CommandError('run %d: %s%s' % (number, record['status'],
                                                 ': ' + record['error'] if record['error'] else ''))

    def wait(self, number):
        """Awaits the end of a run; its record.  By looking again and again, so
        that who waits can be interrupted, and sees how far it is."""
        terminal, shown, away = sys.stderr.isatty(), '', 0
        while True:
            record = sql.run(number)
            if record is None:
                raise CommandError('run %d has no record' % number)
            if record['status'] != 'running':
                break
            # no process has it: it died, if that is so twice
            away = 0 if record['at_work'] else away + 1
            if away > 5:
                record['status'] = 'interrupted'
                break
            if terminal:
                work = sql.progress()
                line = '' if work is None else '%(phase)s, %(done)s of %(total)s' % work
                self.stderr.write('\r%-*s' % (len(shown), line), ending='')
                self.stderr.flush()
                shown = line
            time.sleep(0.2)
        if shown:
            self.stderr.write('\r%*s\r' % (len(shown), ''), ending='')
        return record
