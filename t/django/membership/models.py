"""The registry's models, for the tables of dev/registry.sql."""

from django.conf import settings
from django.db import models


class Email(models.Model):
    email = models.EmailField()
    verified = models.BooleanField(default=False)
    primary = models.BooleanField(default=True)

    class Meta:
        db_table = 'communication_email'


class Comrade(models.Model):
    name = models.CharField(max_length=250)
    ssn = models.CharField(max_length=10)
    birthday = models.DateField(null=True, blank=True)
    date_joined = models.DateTimeField()
    reachable = models.BooleanField(default=True)
    groupable = models.BooleanField(default=True)
    housing_situation = models.IntegerField(null=True, blank=True)
    gender = models.IntegerField(null=True, blank=True)
    emails = models.ManyToManyField(Email, blank=True)

    def __str__(self):
        return self.name


class ContactInfo(models.Model):
    comrade = models.OneToOneField(Comrade, models.CASCADE, primary_key=True, related_name='contact')
    phone = models.CharField(max_length=32, null=True, blank=True)
    email = models.CharField(max_length=124, null=True, blank=True)
    facebook = models.CharField(max_length=255, null=True, blank=True)


class Union(models.Model):
    name = models.CharField(max_length=250)
    abbreviation = models.CharField(max_length=32)


class UnionMembership(models.Model):
    comrade = models.ForeignKey(Comrade, models.CASCADE)
    union = models.ForeignKey(Union, models.CASCADE)


class Title(models.Model):
    name = models.CharField(max_length=250)


class ComradeTitle(models.Model):
    comrade = models.ForeignKey(Comrade, models.CASCADE)
    title = models.ForeignKey(Title, models.CASCADE)


class NewLocalAddress(models.Model):
    comrade = models.OneToOneField(Comrade, models.CASCADE, primary_key=True)
    address_id = models.IntegerField()


if settings.OWN_QUEUE:
    from .queue import MemberSyncQueue  # noqa: F401
else:
    from ekksync.models import MemberSyncQueue  # noqa: F401
