"""A project whose member model was once called Person."""

import importlib

from django.db import migrations

comrade = importlib.import_module('membership.migrations.0001_initial').Migration.operations[0]


class Migration(migrations.Migration):
    initial = True
    dependencies = []
    operations = [migrations.CreateModel(name='Person', fields=comrade.fields)]
