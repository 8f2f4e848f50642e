from django.apps import AppConfig
from django.core import checks
from django.utils.translation import gettext_lazy as _


class EkksyncConfig(AppConfig):
    name = 'ekksync'
    verbose_name = _('Synchronisation')
    default_auto_field = 'django.db.models.BigAutoField'

    def ready(self):
        from . import adoption

        checks.register(adoption.check)
