import importlib

Migration = importlib.import_module('membership.with_queue.0001_initial').Migration
