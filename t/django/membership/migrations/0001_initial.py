from django.db import migrations, models
import django.db.models.deletion


class Migration(migrations.Migration):

    initial = True
    dependencies = []
    operations = [
        migrations.CreateModel(
            name='Comrade',
            fields=[
                ('id', models.AutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('name', models.CharField(max_length=250)),
                ('ssn', models.CharField(max_length=10)),
                ('birthday', models.DateField(blank=True, null=True)),
                ('date_joined', models.DateTimeField()),
                ('reachable', models.BooleanField(default=True)),
                ('groupable', models.BooleanField(default=True)),
                ('housing_situation', models.IntegerField(blank=True, null=True)),
                ('gender', models.IntegerField(blank=True, null=True)),
            ],
        ),
        migrations.CreateModel(
            name='Email',
            fields=[
                ('id', models.AutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('email', models.EmailField(max_length=254)),
                ('verified', models.BooleanField(default=False)),
                ('primary', models.BooleanField(default=True)),
            ],
            options={
                'db_table': 'communication_email',
            },
        ),
        migrations.CreateModel(
            name='Title',
            fields=[
                ('id', models.AutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('name', models.CharField(max_length=250)),
            ],
        ),
        migrations.CreateModel(
            name='Union',
            fields=[
                ('id', models.AutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('name', models.CharField(max_length=250)),
                ('abbreviation', models.CharField(max_length=32)),
            ],
        ),
        migrations.CreateModel(
            name='ContactInfo',
            fields=[
                ('comrade', models.OneToOneField(on_delete=django.db.models.deletion.CASCADE, primary_key=True, related_name='contact', serialize=False, to='membership.comrade')),
                ('phone', models.CharField(blank=True, max_length=32, null=True)),
                ('email', models.CharField(blank=True, max_length=124, null=True)),
                ('facebook', models.CharField(blank=True, max_length=255, null=True)),
            ],
        ),
        migrations.CreateModel(
            name='NewLocalAddress',
            fields=[
                ('comrade', models.OneToOneField(on_delete=django.db.models.deletion.CASCADE, primary_key=True, serialize=False, to='membership.comrade')),
                ('address_id', models.IntegerField()),
            ],
        ),
        migrations.CreateModel(
            name='UnionMembership',
            fields=[
                ('id', models.AutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('comrade', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to='membership.comrade')),
                ('union', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to='membership.union')),
            ],
        ),
        migrations.CreateModel(
            name='ComradeTitle',
            fields=[
                ('id', models.AutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('comrade', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to='membership.comrade')),
                ('title', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to='membership.title')),
            ],
        ),
        migrations.AddField(
            model_name='comrade',
            name='emails',
            field=models.ManyToManyField(blank=True, to='membership.Email'),
        ),
    ]
