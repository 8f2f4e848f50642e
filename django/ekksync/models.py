"""The extension's tables and views as models.  Django makes none of them:
ekksync_attach() makes the queue table, or adopts the one that is there, and
the views come with the extension."""

from datetime import timedelta

from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _, pgettext_lazy

from . import conf, sql


class MemberSyncQueue(models.Model):
    """The queue: one row for each change of a member that Firestore is to get.
    Triggers write it, runs settle it."""

    PENDING, SYNCED, FAILED = 'pending', 'synced', 'failed'
    ACTION_CHOICES = (
        ('create', pgettext_lazy('action', 'create')),
        ('update', pgettext_lazy('action', 'update')),
        ('delete', pgettext_lazy('action', 'delete')),
    )
    STATUS_CHOICES = (
        (PENDING, pgettext_lazy('status', 'pending')),
        (SYNCED, pgettext_lazy('status', 'synced')),
        (FAILED, pgettext_lazy('status', 'failed')),
    )

    id = models.BigAutoField(_('number'), primary_key=True)
    member = models.ForeignKey(conf.member_model(), models.SET_NULL, null=True, blank=True,
                               db_constraint=False, related_name='sync_queue', verbose_name=_('member'))
    ssn = models.CharField(_('kennitala'), max_length=10, db_index=True)
    action = models.CharField(_('action'), max_length=20, choices=ACTION_CHOICES, default='update')
    fields_changed = models.JSONField(_('changed fields'), default=dict, blank=True)
    created_at = models.DateTimeField(_('changed at'), default=timezone.now)
    synced_at = models.DateTimeField(_('synced at'), null=True, blank=True)
    sync_status = models.CharField(_('status'), max_length=20, choices=STATUS_CHOICES, default=PENDING)
    error_message = models.TextField(_('error'), blank=True, default='')
    retry_count = models.IntegerField(_('tries'), default=0)

    class Meta:
        managed = False
        app_label = conf.queue_app()
        db_table = conf.queue_table()
        ordering = ['created_at']
        verbose_name = _('change to sync')
        verbose_name_plural = _('member sync queue')

    def __str__(self):
        return '%s %s (%s)' % (self.action, self.ssn, self.sync_status)

    def mark_synced(self):
        """Nothing is left to do for this row; the next run looks whether that
        is so."""
        self.sync_status = self.SYNCED
        self.synced_at = timezone.now()
        self.error_message = ''
        self.save(update_fields=['sync_status', 'synced_at', 'error_message'])

    def mark_failed(self, error):
        self.sync_status = self.FAILED
        self.error_message = str(error)
        self.retry_count += 1
        self.save(update_fields=['sync_status', 'error_message', 'retry_count'])

    @classmethod
    def get_pending_changes(cls, since=None):
        """The pending rows, oldest first.  since is taken for the sake of old
        callers and hides nothing: pending is pending, whatever its age."""
        return cls.objects.filter(sync_status=cls.PENDING).order_by('created_at', 'pk')

    @classmethod
    def cleanup_old_synced(cls, days=30):
        """Has rows removed that were synced long ago, and what else is older
        than it is to be kept; how many rows of the queue.

        In a transaction that has written no worker can be waited for: rows of
        the queue alone are deleted then, as part of the transaction, but for
        those of members that have something pending."""
        try:
            return sql.cleanup(days).get('queue rows', 0)
        except sql.SqlError as error:
            if error.sqlstate != '25001' or days is None:
                raise
        end = timezone.now() - timedelta(days=days)
        waiting = cls.objects.filter(member=models.OuterRef('member'), sync_status=cls.PENDING)
        return cls.objects.filter(
            models.Q(synced_at=None) | models.Q(synced_at__lt=end), ~models.Exists(waiting),
            sync_status=cls.SYNCED, created_at__lt=end).delete()[0]


class Run(models.Model):
    run = models.BigIntegerField(_('run'), primary_key=True)
    status = models.CharField(_('status'), max_length=20, choices=(
        ('running', pgettext_lazy('run', 'running')),
        ('success', pgettext_lazy('run', 'success')),
        ('failed', pgettext_lazy('run', 'failed')),
        ('stopped', pgettext_lazy('run', 'stopped')),
        ('interrupted', pgettext_lazy('run', 'interrupted'))))
    direction = models.CharField(_('direction'), max_length=20, choices=(
        ('both', pgettext_lazy('direction', 'both')),
        ('to_firestore', pgettext_lazy('direction', 'to Firestore')),
        ('to_django', pgettext_lazy('direction', 'to Django'))))
    dry_run = models.BooleanField(_('dry run'))
    mode = models.CharField(_('kind'), max_length=20)
    scan = models.CharField(_('scan'), max_length=20)
    scheduled = models.DateTimeField(_('scheduled for'), null=True)
    started_at = models.DateTimeField(_('started at'))
    duration = models.DurationField(_('duration'), null=True)
    to_firestore = models.IntegerField(_('to Firestore'))
    to_firestore_failed = models.IntegerField(_('to Firestore, failed'))
    to_django = models.IntegerField(_('to Django'))
    to_django_failed = models.IntegerField(_('to Django, failed'))
    conflicts = models.IntegerField(_('conflicts'))
    docs_read = models.BigIntegerField(_('documents read'))
    docs_scanned = models.BigIntegerField(_('documents scanned'))
    docs_written = models.BigIntegerField(_('documents written'))
    docs_deleted = models.BigIntegerField(_('documents deleted'))
    requests = models.BigIntegerField(_('requests'))
    retries = models.BigIntegerField(_('requests sent again'))
    bytes_sent = models.BigIntegerField(_('bytes sent'))
    bytes_received = models.BigIntegerField(_('bytes received'))
    skew = models.DurationField(_('clock skew'), null=True)
    phase = models.CharField(_('phase'), max_length=20)
    sqlstate = models.CharField(_('SQLSTATE'), max_length=5, null=True)
    error = models.TextField(_('error'), null=True)
    log_document = models.CharField(_('document in sync_logs'), max_length=1500, null=True)

    class Meta:
        managed = False
        db_table = 'ekksync_runs'
        ordering = ['-run']
        default_permissions = ('view',)
        permissions = [('start_run', 'Can start a run')]
        verbose_name = _('run')
        verbose_name_plural = _('runs')

    def __str__(self):
        return str(_('run %d') % self.run)


class Conflict(models.Model):
    id = models.BigAutoField(_('number'), primary_key=True)
    run = models.BigIntegerField(_('run'), null=True)
    member = models.CharField(_('kennitala'), max_length=1500)
    field = models.CharField(_('field'), max_length=1500)
    django_value = models.JSONField(_("Django's value"), null=True)
    firestore_value = models.JSONField(_("Firestore's value"), null=True)
    django_time = models.DateTimeField(_('changed in Django'), null=True)
    firestore_time_from = models.DateTimeField(_('changed in Firestore, not before'), null=True)
    firestore_time = models.DateTimeField(_('changed in Firestore'), null=True)
    skew = models.DurationField(_('clock skew'), null=True)
    winner = models.CharField(_('winner'), max_length=20, choices=(
        ('django', 'Django'), ('firestore', 'Firestore'), ('none', pgettext_lazy('winner', 'none: held'))))
    rule = models.CharField(_('rule'), max_length=50)
    potential = models.BooleanField(_('within the window'))
    created_at = models.DateTimeField(_('recorded at'))
    resolved_at = models.DateTimeField(_('resolved at'), null=True)
    resolved_by = models.CharField(_('resolved by'), max_length=100, null=True)

    class Meta:
        managed = False
        db_table = 'ekksync_conflicts'
        ordering = ['-id']
        default_permissions = ('view',)
        permissions = [('resolve_conflict', 'Can decide conflicts')]
        verbose_name = _('conflict')
        verbose_name_plural = _('conflicts')

    def __str__(self):
        return str(_('conflict %(number)d: %(field)s of %(member)s') % {
            'number': self.pk, 'field': self.field, 'member': self.member})


class History(models.Model):
    """What has become of a member: rows of ekksync_history(), which has no
    table.  There is a model so that there is a page and a permission."""

    member = models.CharField(_('kennitala'), max_length=10, primary_key=True)

    class Meta:
        managed = False
        db_table = 'ekksync_history'
        default_permissions = ('view',)
        verbose_name = _("member's history")
        verbose_name_plural = _("members' history")

    def __str__(self):
        return self.member
