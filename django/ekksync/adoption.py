"""The migration operation by which the queue's model enters the state of
migrations, in place of a project's own one if there is one."""

import importlib
import pkgutil

from django.apps import apps
from django.core import checks
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
    """Does a migration make the member's model, or give it its name, or do
    anything to a queue of the project's own?"""
    member = conf.member_model().split('.')[1].lower()
    for operation in _operations(migration.operations):
        kind = type(operation).__name__
        names = {str(getattr(operation, name, '')).lower() for name in ('name', 'model_name', 'old_name', 'new_name')}
        if QUEUE in names or member in names and kind in ('CreateModel', 'RenameModel'):
            return True
    return False


def _migrations():
    """The migrations of the member's app, by name, but for those that
    themselves come after ekksync's."""
    name = MigrationLoader.migrations_module(conf.queue_app())[0]
    try:
        package = importlib.import_module(name) if name else None
    except ModuleNotFoundError:
        package = None
    for module in sorted(one.name for one in pkgutil.iter_modules(getattr(package, '__path__', ()))
                         if not one.ispkg and one.name[0] not in '_~'):
        migration = getattr(importlib.import_module('%s.%s' % (name, module)), 'Migration', None)
        if migration is not None and not any(app == 'ekksync' for app, _ in migration.dependencies):
            yield module, migration


def dependencies():
    """What must come before AdoptQueue: in the member's app, the migrations
    that concern it."""
    return [(conf.queue_app(), module) for module, migration in _migrations() if _concerns(migration)]


def check(**kwargs):
    """A system check: makemigrations without ekksync, once the queue's class
    is gone, writes a migration that drops the table with its rows."""
    drops = None
    for module, migration in _migrations():
        for operation in _operations(migration.operations):
            if str(getattr(operation, 'name', '')).lower() == QUEUE:
                kind = type(operation).__name__
                drops = module if kind == 'DeleteModel' else None if kind == 'CreateModel' else drops
    if drops is None:
        return []
    return [checks.Error(
        'The migration %s.%s drops the sync queue with its rows.' % (conf.queue_app(), drops),
        hint='Remove that migration: ekksync takes the table over. Where it was meant, or is applied already,'
             " add 'ekksync.E001' to SILENCED_SYSTEM_CHECKS.",
        id='ekksync.E001')]
