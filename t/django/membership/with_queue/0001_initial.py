import importlib

Migration = importlib.import_module('membership.migrations.0001_initial').Migration
