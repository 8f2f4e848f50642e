"""No table is made: the queue's is ekksync_attach()'s, the others are views of
the extension.  What comes of it are content types and permissions."""

from django.db import migrations
from django.db.migrations.operations.base import Operation
from django.db.migrations.state import ModelState

from ekksync import adoption, models


class KnowModels(Operation):
    """The models of views, as they are now; see AdoptQueue."""

    reduces_to_sql = True
    reversible = True

    def state_forwards(self, app_label, state):
        for model in (models.Run, models.Conflict, models.History):
            state.add_model(ModelState.from_model(model))

    def database_forwards(self, app_label, schema_editor, from_state, to_state):
        pass

    def database_backwards(self, app_label, schema_editor, from_state, to_state):
        pass

    def describe(self):
        return 'Name the views of the extension'


class Migration(migrations.Migration):
    initial = True
    dependencies = adoption.dependencies()
    operations = [adoption.AdoptQueue(), KnowModels()]
