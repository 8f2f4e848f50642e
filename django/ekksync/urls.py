"""The endpoints: path('felagar/api/sync/', include('ekksync.urls'))."""

from django.urls import path

from . import api

urlpatterns = [
    path('changes/', api.changes, name='ekksync-changes'),
    path('apply/', api.apply, name='ekksync-apply'),
    path('mark-synced/', api.mark_synced, name='ekksync-mark-synced'),
    path('status/', api.status, name='ekksync-status'),
    path('member/<str:ssn>/', api.member, name='ekksync-member'),
]
