from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class EkksyncConfig(AppConfig):
    name = 'ekksync'
    verbose_name = _('Synchronisation')
    default_auto_field = 'django.db.models.BigAutoField'
