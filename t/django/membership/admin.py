from django.contrib import admin

from .models import Comrade, ContactInfo


class ContactInline(admin.StackedInline):
    model = ContactInfo


@admin.register(Comrade)
class ComradeAdmin(admin.ModelAdmin):
    list_display = ('name', 'ssn')
    fields = ('name', 'ssn', 'birthday', 'date_joined', 'reachable', 'groupable', 'housing_situation', 'gender')
    readonly_fields = ('date_joined',)      # its form would cut the time to the second
    inlines = [ContactInline]
