"""The queue as a project had it that came before ekksync."""

from django.db import models


class MemberSyncQueue(models.Model):
    member = models.ForeignKey('membership.Comrade', models.SET_NULL, null=True, blank=True, related_name='sync_queue')
    ssn = models.CharField(max_length=10, db_index=True)
    action = models.CharField(max_length=20, default='update')
    fields_changed = models.JSONField(default=dict, blank=True)
    created_at = models.DateTimeField(auto_now_add=True, db_index=True)
    synced_at = models.DateTimeField(null=True, blank=True)
    sync_status = models.CharField(max_length=20, default='pending', db_index=True)
    error_message = models.TextField(blank=True)
    retry_count = models.IntegerField(default=0)

    class Meta:
        app_label = 'membership'
        ordering = ['created_at']
        indexes = [
            models.Index(fields=['sync_status', 'created_at'], name='membership__sync_st_1e02d5_idx'),
            models.Index(fields=['ssn', 'created_at'], name='membership__ssn_6b0c4f_idx'),
        ]
        verbose_name = 'Member Sync Queue Item'
        verbose_name_plural = 'Member Sync Queue'
