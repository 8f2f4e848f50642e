"""What makemigrations writes where the queue's class is gone and ekksync not
there yet."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [('membership', '0003_indexes')]
    operations = [migrations.DeleteModel(name='MemberSyncQueue')]
