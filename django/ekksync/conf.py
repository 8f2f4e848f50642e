"""The settings, and what they are where a project says nothing.

EKKSYNC_MEMBER_MODEL  the model of the table that was given to
                      ekksync_attach(): 'membership.Comrade'
EKKSYNC_QUEUE_TABLE   the queue table: the member model's app label and
                      '_membersyncqueue'
"""

from django.conf import settings


def member_model():
    return getattr(settings, 'EKKSYNC_MEMBER_MODEL', 'membership.Comrade')


def queue_app():
    """The app that the queue's model counts as part of: the member's, so that
    its page in the admin, permissions and content type are what they were
    where a project had a queue of its own."""
    return member_model().split('.')[0]


def queue_table():
    return getattr(settings, 'EKKSYNC_QUEUE_TABLE', queue_app() + '_membersyncqueue')
