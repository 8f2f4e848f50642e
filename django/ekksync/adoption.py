"""The migration operation by which the queue's model enters the state of
migrations, in place of a project's own one if there is one."""

import importlib
import pkgutil

from django.apps import apps
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.operations.base import Operation
from django.db.migrations.state import ModelState

from . import conf

QUEUE = 'membersyncqueue'


class AdoptQueue(Operation):
    """From here on the queue's model is ekksync's, and unmanaged.

    Nothing is done to the table: ekksync_attach() creates it, or adopts the
    one that a migration of the project made, with all its rows; backwards the
    table stays as well.  The state takes the model as it is now, so that a new
    version of ekksync never asks a project for a migration of its own app.
    """

    reduces_to_sql = True
    reversible = True

    def state_forwards(self, app_label, state):
        if tuple(conf.member_model().lower().split('.')) not in state.models:
            return          # the member's app has no migrations yet
        model = apps.get_model(conf.queue_app(), QUEUE)
        if (conf.queue_app(), QUEUE) in state.models:
            state.remove_model(conf.queue_app(), QUEUE)
        state.add_model(ModelState.from_model(model))

    def database_forwards(self, app_label, schema_editor, from_state, to_state):
        pass

    def database_backwards(self, app_label, schema_editor, from_state, to_state):
        pass

    def describe(self):
        return 'Take over the sync queue'


def _operations(operations):
    for operation in operations:
        yield operation
        yield from _operations(getattr(operation, 'state_operations', ()))
        yield from _operations(getattr(operation, 'database_operations', ()))


def _concerns(migration):
    """Does a migration make the member's model, or do anything to a queue of
    the project's own?"""
    member = conf.member_model().split('.')[1].lower()
    for operation in _operations(migration.operations):
        kind = type(operation).__name__
        names = {str(getattr(operation, name, '')).lower() for name in ('name', 'model_name', 'old_name', 'new_name')}
        if QUEUE in names or member in names and kind == 'CreateModel':
            return True
    return False


def dependencies():
    """What must come before AdoptQueue: in the member's app, the migrations
    that concern it, but for those that themselves come after ekksync's."""
    label = conf.queue_app()
    name = MigrationLoader.migrations_module(label)[0]
    try:
        package = importlib.import_module(name) if name else None
    except ModuleNotFoundError:
        package = None
    found = []
    for _, module, is_package in pkgutil.iter_modules(getattr(package, '__path__', ())):
        migration = getattr(importlib.import_module('%s.%s' % (name, module)), 'Migration', None)
        if is_package or migration is None or module[0] in '_~':
            continue
        if _concerns(migration) and not any(app == 'ekksync' for app, _ in migration.dependencies):
            found.append((label, module))
    return found
