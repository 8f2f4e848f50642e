import importlib

from django.db import migrations, models
import django.db.models.deletion

queue = importlib.import_module('membership.with_queue.0002_queue').Migration.operations[0]


class Migration(migrations.Migration):
    dependencies = [('membership', '0001_initial')]
    operations = [
        migrations.CreateModel(
            name='MemberSyncQueue',
            fields=[field for field in queue.fields if field[0] != 'member'] + [
                ('member', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='sync_queue', to='membership.person')),
            ],
            options=queue.options,
        ),
    ]
