from django.db import migrations, models
import django.db.models.deletion


class Migration(migrations.Migration):
    dependencies = [('membership', '0001_initial')]
    operations = [
        migrations.CreateModel(
            name='MemberSyncQueue',
            fields=[
                ('id', models.AutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('ssn', models.CharField(db_index=True, max_length=10)),
                ('action', models.CharField(default='update', max_length=20)),
                ('fields_changed', models.JSONField(blank=True, default=dict)),
                ('created_at', models.DateTimeField(auto_now_add=True, db_index=True)),
                ('synced_at', models.DateTimeField(blank=True, null=True)),
                ('sync_status', models.CharField(db_index=True, default='pending', max_length=20)),
                ('error_message', models.TextField(blank=True)),
                ('retry_count', models.IntegerField(default=0)),
                ('member', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='sync_queue', to='membership.comrade')),
            ],
            options={
                'verbose_name': 'Member Sync Queue Item',
                'verbose_name_plural': 'Member Sync Queue',
                'ordering': ['created_at'],
            },
        ),
    ]
