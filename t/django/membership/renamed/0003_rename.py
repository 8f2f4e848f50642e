from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [('membership', '0002_queue')]
    operations = [migrations.RenameModel('Person', 'Comrade')]
