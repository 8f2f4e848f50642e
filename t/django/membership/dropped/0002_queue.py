import importlib

Migration = importlib.import_module('membership.with_queue.0002_queue').Migration
