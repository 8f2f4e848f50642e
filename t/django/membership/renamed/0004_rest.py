import importlib

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [('membership', '0003_rename')]
    operations = importlib.import_module('membership.migrations.0001_initial').Migration.operations[1:]
