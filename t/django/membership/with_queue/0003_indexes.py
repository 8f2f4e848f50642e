from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [('membership', '0002_queue')]
    operations = [
        migrations.AddIndex(
            model_name='membersyncqueue',
            index=models.Index(fields=['sync_status', 'created_at'], name='membership__sync_st_1e02d5_idx'),
        ),
        migrations.AddIndex(
            model_name='membersyncqueue',
            index=models.Index(fields=['ssn', 'created_at'], name='membership__ssn_6b0c4f_idx'),
        ),
    ]
