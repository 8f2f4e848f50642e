"""Runs Python in the tests' Django project: takes lines of JSON {"code": …},
and answers each with a line {"value": …} or {"error": …, "sqlstate": …}.  The
code's value is what it leaves in the variable "result"."""

import json
import os
import sys

import django

os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'project.settings')
django.setup()

from django.db import connection, reset_queries, transaction  # noqa: E402,F401

for line in sys.stdin:
    names = {'transaction': transaction, 'connection': connection}
    try:
        exec('from membership.models import *', names)
        exec(json.loads(line)['code'], names)
        answer = {'value': names.get('result')}
    except Exception as error:  # noqa: B902
        cause = error.__cause__
        answer = {'error': '%s: %s' % (type(error).__name__, error),
                  'sqlstate': getattr(error, 'sqlstate', None) or getattr(cause, 'pgcode', None) or getattr(cause, 'sqlstate', None)}
    print(json.dumps(answer, default=str), flush=True)
