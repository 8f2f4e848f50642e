"""The queue, conflicts, runs and members' histories in Django's admin."""

import json
import re

from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, DELETION, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import FieldDoesNotExist, PermissionDenied
from django.http import HttpResponseNotAllowed, HttpResponseRedirect, JsonResponse
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.text import Truncator, capfirst
from django.utils.translation import gettext, gettext_lazy as _, ngettext

from . import progress, sql
from .models import Conflict, History, MemberSyncQueue, Run


def shown(value):
    """A value of either side as people read it."""
    if value is None:
        return '–'
    if isinstance(value, bool):
        return gettext('yes') if value else gettext('no')
    if isinstance(value, str):
        return value if value != '' else '""'
    return json.dumps(value, ensure_ascii=False)


def moment_of(field, description):
    """A column with the time in a field, to the second."""
    def column(self, row):
        return progress.moment(getattr(row, field))
    column.short_description = description
    column.admin_order_field = field
    return column


def history_link(key):
    if not re.fullmatch(r'\d{10}', key or ''):
        return key
    return format_html('<a href="{}?key={}">{}</a>', reverse('admin:ekksync_history_changelist'), key, key)


def log(request, objects, message, action=CHANGE):
    """Notes in the admin's log what somebody did to rows.  They are named by
    number alone: what is in that log, ekksync_forget() does not reach."""
    objects = list(objects)
    if not objects:
        return
    content_type = ContentType.objects.get_for_model(objects[0], for_concrete_model=False)
    LogEntry.objects.bulk_create([
        LogEntry(user_id=request.user.pk, content_type=content_type, object_id=str(one.pk),
                 object_repr='%s %s' % (one._meta.verbose_name, one.pk), action_flag=action, change_message=message)
        for one in objects])


class ReadOnlyAdmin(admin.ModelAdmin):
    """Pages that show rows, with the sync line above the list."""

    change_list_template = 'ekksync/change_list.html'
    list_per_page = 50

    def has_add_permission(self, request):
        return False

    def has_change_permission(self, request, obj=None):
        return False

    def has_delete_permission(self, request, obj=None):
        return False

    # Before Django 5.1 the first of them is called, since then the second.
    def log_deletion(self, request, obj, object_repr):
        log(request, [obj], '', DELETION)

    def log_deletions(self, request, queryset):
        log(request, queryset, '', DELETION)

    def changelist_view(self, request, extra_context=None):
        return super().changelist_view(request, {**sync_context(request), **(extra_context or {})})


def sync_context(request):
    """For the sync line: what stands in it, and who may press the button."""
    if not request.user.has_perm('ekksync.view_run'):
        return {}
    run = request.GET.get('run_started', '')
    request.GET = request.GET.copy()
    request.GET.pop('run_started', None)        # the list would take it for a filter
    return {'ekksync': {
        **progress.line(int(run) if run.isascii() and run.isdigit() and len(run) < 18 else None),
        'may_run': request.user.has_perm('ekksync.start_run'),
        'back': request.get_full_path().split('?')[0],
    }}


@admin.register(MemberSyncQueue)
class MemberSyncQueueAdmin(ReadOnlyAdmin):
    list_display = ('when', 'sync_status', 'kennitala', 'member_name', 'action', 'changed', 'error')
    list_filter = ('sync_status', 'action', 'created_at')
    list_select_related = ('member',)
    date_hierarchy = 'created_at'
    ordering = ('-created_at', '-id')
    actions = ('mark_synced', 'mark_pending', 'retry_failed')
    fields = ('kennitala', 'member', 'action', 'values', 'when', 'sync_status', 'synced', 'retry_count',
              'error_message')
    readonly_fields = ('kennitala', 'values', 'when', 'synced')

    def get_search_fields(self, request):
        try:
            MemberSyncQueue._meta.get_field('member').related_model._meta.get_field('name')
        except FieldDoesNotExist:
            return ('ssn', 'error_message')
        return ('ssn', 'error_message', 'member__name')

    def get_search_results(self, request, queryset, search_term):
        return super().get_search_results(request, queryset, sql.plain_key(search_term))

    # A row may be deleted as any other: the next run looks at its member.
    def has_delete_permission(self, request, obj=None):
        return admin.ModelAdmin.has_delete_permission(self, request, obj)

    def has_settle_permission(self, request):
        return request.user.has_perm('%s.change_%s' % (self.opts.app_label, self.opts.model_name))

    def has_view_permission(self, request, obj=None):
        return super().has_view_permission(request, obj) or self.has_settle_permission(request)

    when = moment_of('created_at', _('changed at'))
    synced = moment_of('synced_at', _('synced at'))

    def kennitala(self, row):
        return history_link(row.ssn)
    kennitala.short_description = _('kennitala')
    kennitala.admin_order_field = 'ssn'

    def member_name(self, row):
        return str(row.member) if row.member else '–'
    member_name.short_description = _('member')

    def changed(self, row):
        return ', '.join(sorted(row.fields_changed or {})) or '–'
    changed.short_description = _('changed fields')

    def error(self, row):
        return Truncator(row.error_message).chars(80) if row.error_message else '–'
    error.short_description = _('error')

    def values(self, row):
        if not row.fields_changed:
            return '–'
        return format_html_join('', '<div>{}: {}</div>', (
            (name, shown(value)) for name, value in sorted(row.fields_changed.items())))
    values.short_description = _('changed fields')

    def _update(self, request, queryset, message, **values):
        """Sets rows to something; how many.  Their ids first, so that the
        update does not change which rows they are."""
        rows = list(queryset)
        changed = MemberSyncQueue.objects.filter(pk__in=[row.pk for row in rows]).order_by().update(**values)
        log(request, rows, message)
        return changed

    def mark_synced(self, request, queryset):
        changed = self._update(request, queryset.exclude(sync_status='synced'), 'marked as synced',
                               sync_status='synced', synced_at=timezone.now(), error_message='')
        self.message_user(request, ngettext(
            '%d change was marked as synced; the next run looks whether it is.',
            '%d changes were marked as synced; the next run looks whether they are.', changed) % changed)
    mark_synced.short_description = _('Mark as synced')
    mark_synced.allowed_permissions = ('settle',)

    def mark_pending(self, request, queryset):
        changed = self._update(request, queryset.exclude(sync_status='pending'), 'marked as pending',
                               sync_status='pending', synced_at=None, error_message='')
        self.message_user(request, ngettext(
            '%d change is pending again.', '%d changes are pending again.', changed) % changed)
    mark_pending.short_description = _('Mark as pending')
    mark_pending.allowed_permissions = ('settle',)

    def retry_failed(self, request, queryset):
        rows = list(queryset.filter(sync_status='failed'))
        changed = sql.retry([row.pk for row in rows]) if rows else 0
        log(request, rows, 'to be tried again')
        self.message_user(request, ngettext(
            '%d failed change will be tried again.', '%d failed changes will be tried again.', changed) % changed)
    retry_failed.short_description = _('Try failed ones again')
    retry_failed.allowed_permissions = ('settle',)


class OpenFilter(admin.SimpleListFilter):
    title = _('state')
    parameter_name = 'state'

    def lookups(self, request, model_admin):
        return (('held', _('waits for a decision')), ('decided', _('decided by a rule')),
                ('resolved', _('resolved')))

    def queryset(self, request, queryset):
        if self.value() == 'held':
            return queryset.filter(winner='none', resolved_at=None)
        if self.value() == 'decided':
            return queryset.exclude(winner='none').filter(resolved_at=None)
        if self.value() == 'resolved':
            return queryset.exclude(resolved_at=None)
        return queryset


@admin.register(Conflict)
class ConflictAdmin(ReadOnlyAdmin):
    change_form_template = 'ekksync/conflict.html'
    list_display = ('when', 'kennitala', 'field', 'django', 'firestore', 'winner', 'rule', 'resolved')
    list_filter = (OpenFilter, 'winner', 'rule', 'potential', 'created_at')
    search_fields = ('member', 'field')
    date_hierarchy = 'created_at'
    ordering = ('-id',)
    actions = ('take_django', 'take_firestore')
    fields = ('kennitala', 'field', 'django', 'django_when', 'firestore', 'firestore_from', 'firestore_when',
              'skew', 'winner', 'rule', 'potential', 'run', 'when', 'resolved_when', 'resolved_by')
    readonly_fields = ('kennitala', 'django', 'django_when', 'firestore', 'firestore_from', 'firestore_when',
                       'when', 'resolved_when')

    def has_resolve_permission(self, request):
        return request.user.has_perm('ekksync.resolve_conflict')

    def has_view_permission(self, request, obj=None):
        return super().has_view_permission(request, obj) or self.has_resolve_permission(request)

    def get_search_results(self, request, queryset, search_term):
        return super().get_search_results(request, queryset, sql.plain_key(search_term))

    when = moment_of('created_at', _('recorded at'))
    django_when = moment_of('django_time', _('changed in Django'))
    firestore_from = moment_of('firestore_time_from', _('changed in Firestore, not before'))
    firestore_when = moment_of('firestore_time', _('changed in Firestore'))
    resolved_when = moment_of('resolved_at', _('resolved at'))

    def kennitala(self, conflict):
        return history_link(conflict.member)
    kennitala.short_description = _('kennitala')
    kennitala.admin_order_field = 'member'

    def django(self, conflict):
        return shown(conflict.django_value)
    django.short_description = _("Django's value")

    def firestore(self, conflict):
        return shown(conflict.firestore_value)
    firestore.short_description = _("Firestore's value")

    def resolved(self, conflict):
        return conflict.resolved_at is not None
    resolved.boolean = True
    resolved.short_description = _('resolved')

    def _take(self, request, conflicts, side):
        done = []
        for conflict in conflicts:
            try:
                outcome = sql.resolve(conflict.pk, side)
            except sql.SqlError as error:
                self.message_user(request, '%s: %s' % (conflict, error.full()), messages.ERROR)
            else:
                done.append(conflict)
                if len(conflicts) == 1:
                    self.message_user(request, '%s: %s' % (conflict, outcome))
        log(request, done, "took %s's value" % side)
        if len(done) > 1:
            self.message_user(request, gettext('%d conflicts were resolved; the next run carries it out.') % len(done))

    def take_django(self, request, queryset):
        self._take(request, list(queryset), 'django')
    take_django.short_description = _("Take Django's value")
    take_django.allowed_permissions = ('resolve',)

    def take_firestore(self, request, queryset):
        self._take(request, list(queryset), 'firestore')
    take_firestore.short_description = _("Take Firestore's value")
    take_firestore.allowed_permissions = ('resolve',)

    def get_urls(self):
        return [path('<int:number>/take/', self.admin_site.admin_view(self.take_view),
                     name='ekksync_conflict_take')] + super().get_urls()

    def take_view(self, request, number):
        """The buttons on a conflict's own page."""
        if request.method != 'POST':
            return HttpResponseNotAllowed(['POST'])
        if not self.has_resolve_permission(request):
            raise PermissionDenied
        side = request.POST.get('take')
        conflict = Conflict.objects.filter(pk=number).first()
        if conflict is not None and side in ('django', 'firestore'):
            self._take(request, [conflict], side)
        return HttpResponseRedirect(reverse('admin:ekksync_conflict_changelist'))

    def render_change_form(self, request, context, *args, obj=None, **kwargs):
        context['ekksync_may_resolve'] = (
            obj is not None and obj.resolved_at is None and self.has_resolve_permission(request))
        return super().render_change_form(request, context, *args, obj=obj, **kwargs)


@admin.register(Run)
class RunAdmin(ReadOnlyAdmin):
    list_display = ('run', 'status', 'when', 'took', 'to_firestore', 'to_django', 'conflicts', 'failed',
                    'kind', 'message')
    list_filter = ('status', 'mode', 'direction', 'dry_run', 'started_at')
    search_fields = ('error', '=run')
    date_hierarchy = 'started_at'
    ordering = ('-run',)
    fieldsets = (
        (None, {'fields': ('run', 'status', 'kind', 'direction', 'scan', 'scheduled', 'when', 'took',
                           'phase', 'sqlstate', 'error')}),
        (_('What it did'), {'fields': ('to_firestore', 'to_firestore_failed', 'to_django',
                                       'to_django_failed', 'conflicts')}),
        (_('What it cost'), {'fields': ('docs_read', 'docs_scanned', 'docs_written', 'docs_deleted', 'requests',
                                        'retries', 'bytes_sent', 'bytes_received', 'skew', 'log_document')}),
        (_('Phases'), {'fields': ('phases',)}),
    )
    readonly_fields = ('kind', 'when', 'took', 'phases')

    when = moment_of('started_at', _('started at'))

    def kind(self, run):
        return gettext('dry run') if run.dry_run and run.mode == 'sync' else run.mode
    kind.short_description = _('kind')
    kind.admin_order_field = 'mode'

    def took(self, run):
        return gettext('%.1f s') % run.duration.total_seconds() if run.duration is not None else '–'
    took.short_description = _('duration')
    took.admin_order_field = 'duration'

    def failed(self, run):
        return run.to_firestore_failed + run.to_django_failed
    failed.short_description = _('failed')

    def message(self, run):
        return Truncator(run.error).chars(80) if run.error else '–'
    message.short_description = _('error')

    def phases(self, run):
        return format_html(
            '<table><thead><tr><th>{}</th><th>{}</th><th>{}</th><th>{}</th></tr></thead><tbody>{}</tbody></table>',
            gettext('phase'), gettext('duration'), gettext('done'), gettext('requests'),
            format_html_join('', '<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>', (
                (one['phase'], gettext('%.1f s') % one['duration'].total_seconds(), one['done'], one['requests'])
                for one in sql.phases(run.pk))))
    phases.short_description = _('phases')

    def get_urls(self):
        return [
            path('sync-now/', self.admin_site.admin_view(self.sync_now_view), name='ekksync_sync_now'),
            path('progress/', self.admin_site.admin_view(self.progress_view), name='ekksync_progress'),
        ] + super().get_urls()

    def sync_now_view(self, request):
        """Starts a run; back to the page with the button, or the new line as
        JSON for the script on it."""
        if request.method != 'POST':
            return HttpResponseNotAllowed(['POST'])
        if not request.user.has_perm('ekksync.start_run'):
            raise PermissionDenied
        run, problem = None, None
        try:
            run = sql.start_run()
        except sql.SqlError as error:
            problem = error.full()
        if request.headers.get('Accept') == 'application/json':
            if problem:
                return JsonResponse({'running': False, 'run': None, 'line': problem, 'percent': None, 'good': False})
            return JsonResponse(progress.line(run))
        if problem:
            self.message_user(request, problem, messages.ERROR)
        back = request.POST.get('back', '')
        if not url_has_allowed_host_and_scheme(back, {request.get_host()}, request.is_secure()):
            back = reverse('admin:ekksync_run_changelist')
        return HttpResponseRedirect('%s?run_started=%d' % (back, run) if run else back)

    def progress_view(self, request):
        if not request.user.has_perm('ekksync.view_run'):
            raise PermissionDenied
        run = request.GET.get('run', '')
        return JsonResponse(progress.line(int(run) if run.isascii() and run.isdigit() and len(run) < 18 else None))


@admin.register(History)
class HistoryAdmin(ReadOnlyAdmin):
    """Not a list of rows: a kennitala is asked for, and its history shown."""

    WHAT = {
        'written to Django': _('written to Django'),
        'written to Firestore': _('written to Firestore'),
        "Django's value lost": _("Django's value lost"),
        "Firestore's value lost": _("Firestore's value lost"),
        'edited in Django': _('edited in Django'),
        'created in Django': _('created in Django'),
        'deleted in Django': _('deleted in Django'),
        'edited in Firestore': _('edited in Firestore'),
        'created in Firestore': _('created in Firestore'),
        'deleted in Firestore': _('deleted in Firestore'),
        'held': _('held'),
        'resolved': _('resolved'),
    }

    def get_urls(self):
        return super().get_urls()[:1]           # the list alone

    def changelist_view(self, request, extra_context=None):
        if not self.has_view_permission(request):
            raise PermissionDenied
        key, field = request.GET.get('key', '').strip(), request.GET.get('field', '').strip()
        rows, problem = [], None
        if key:
            try:
                rows = sql.history(sql.plain_key(key), field)
            except sql.SqlError as error:
                problem = error.full()
        for row in rows:
            row['what'] = self.WHAT.get(row['what'], row['what'])
            row['at'] = progress.moment(row['at'])
            row['old_value'], row['new_value'] = shown(row['old_value']), shown(row['new_value'])
        return TemplateResponse(request, 'ekksync/history.html', {
            **self.admin_site.each_context(request),
            'title': capfirst(self.opts.verbose_name_plural),
            'opts': self.opts,
            'key': key, 'field': field, 'rows': rows, 'problem': problem,
            **(extra_context or {}),
        })
