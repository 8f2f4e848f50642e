"""Settings by the environment: PGHOST, PGPORT, PGDATABASE, PGUSER; and
REGISTRY_QUEUE=1 for a project that has a queue model of its own."""

import os

SECRET_KEY = 'of the tests'
DEBUG = False
ALLOWED_HOSTS = ['127.0.0.1']
OWN_QUEUE = os.environ.get('REGISTRY_QUEUE') == '1'
INSTALLED_APPS = [
    'django.contrib.admin',
    'django.contrib.auth',
    'django.contrib.contenttypes',
    'django.contrib.sessions',
    'django.contrib.messages',
    'django.contrib.staticfiles',
    'rest_framework',
    'rest_framework.authtoken',
    'membership',
] + ([] if OWN_QUEUE else ['ekksync'])
MIGRATION_MODULES = {'membership': os.environ.get('REGISTRY_MIGRATIONS', 'membership.migrations')}
MIDDLEWARE = [
    'django.contrib.sessions.middleware.SessionMiddleware',
    'django.middleware.locale.LocaleMiddleware',
    'django.middleware.common.CommonMiddleware',
    'django.middleware.csrf.CsrfViewMiddleware',
    'django.contrib.auth.middleware.AuthenticationMiddleware',
    'django.contrib.messages.middleware.MessageMiddleware',
]
ROOT_URLCONF = 'project.urls'
TEMPLATES = [{
    'BACKEND': 'django.template.backends.django.DjangoTemplates',
    'APP_DIRS': True,
    'OPTIONS': {'context_processors': [
        'django.template.context_processors.request',
        'django.contrib.auth.context_processors.auth',
        'django.contrib.messages.context_processors.messages',
    ]},
}]
DATABASES = {'default': {
    'ENGINE': 'django.db.backends.postgresql',
    'HOST': os.environ.get('PGHOST'),
    'PORT': os.environ.get('PGPORT'),
    'NAME': os.environ.get('PGDATABASE'),
    'USER': os.environ.get('PGUSER'),
    'ATOMIC_REQUESTS': os.environ.get('REGISTRY_ATOMIC') == '1',
}}
PASSWORD_HASHERS = ['django.contrib.auth.hashers.MD5PasswordHasher']
DEFAULT_AUTO_FIELD = 'django.db.models.AutoField'
LANGUAGE_CODE = 'en'
LANGUAGES = [('en', 'English'), ('is', 'Íslenska')]
TIME_ZONE = 'Atlantic/Reykjavik'
USE_I18N = USE_L10N = USE_TZ = True
STATIC_URL = '/static/'
