/*
 * schedule.c
 *		When a schedule in cron's form is due, in a time zone.
 *
 * A local time, here, is the number of seconds that a clock of the zone is
 * past 1970-01-01 00:00:00, whatever has been skipped or repeated.  A
 * schedule is due at local times that are whole minutes; which moments they
 * are is found in the stretches of time between changes of the zone's offset.
 *
 * May not know: what is scheduled, settings, the present time.
 */
#include "postgres.h"

#include "utils/datetime.h"

#include "schedule.h"

#define ALL_HOURS ((UINT64CONST(1) << HOURS_PER_DAY) - 1)

/* Gregorian dates and weekdays come again after so many years. */
#define CALENDAR_YEARS 400

/* No clock is further from UTC, in seconds; POSIX zones may be a week. */
#define MAX_OFFSET (8 * SECS_PER_DAY)

/* A stretch of time that does not end. */
#define NEVER PG_INT64_MAX

/* What an expression names: bit n of a field's set is its value n. */
typedef enum FieldName
{
	F_MINUTE,
	F_HOUR,
	F_DAY,
	F_MONTH,
	F_WEEKDAY,
	FIELDS
} FieldName;

struct Schedule
{
	bool off;
	bool either; /* day of the month or of the week, not both */
	uint64 sets[FIELDS];
};

typedef struct Field
{
	const char *name;
	int min, max;
	int values;				  /* how many there are */
	const char *const *names; /* of the first value and those after it */
	int nnames;
} Field;

static const char *const month_names[] = {"jan", "feb", "mar", "apr",
										  "may", "jun", "jul", "aug",
										  "sep", "oct", "nov", "dec"};
static const char *const weekday_names[] = {"sun", "mon", "tue", "wed",
											"thu", "fri", "sat"};

static const Field fields[FIELDS] = {{"minute", 0, 59, 60, NULL, 0},
									 {"hour", 0, 23, 24, NULL, 0},
									 {"day of the month", 1, 31, 31, NULL, 0},
									 {"month", 1, 12, 12, month_names,
									  lengthof(month_names)},
									 {"day of the week", 0, 7, 7,
									  weekday_names, lengthof(weekday_names)}};

static const struct
{
	const char *name, *expression;
} nicknames[] = {{"@hourly", "0 * * * *"},	 {"@daily", "0 0 * * *"},
				 {"@midnight", "0 0 * * *"}, {"@weekly", "0 0 * * 0"},
				 {"@monthly", "0 0 1 * *"},	 {"@yearly", "0 0 1 1 *"},
				 {"@annually", "0 0 1 1 *"}};

#define DIGITS "0123456789"
#define SPACES " \t\n\r\f\v"

/* ---- reading ---- */

/* A number, however long: what is too large for any field is 1000. */
static bool
read_number(const char *text, int *value)
{
	if (*text == '\0' || strspn(text, DIGITS) != strlen(text))
		return false;
	for (*value = 0; *text; text++)
		*value = Min(*value * 10 + (*text - '0'), 1000);
	return true;
}

/* A number or word of the field. */
static bool
read_value(const Field *field, const char *text, int *value)
{
	int i;

	for (i = 0; i < field->nnames; i++)
	{
		if (pg_strcasecmp(text, field->names[i]) == 0)
		{
			*value = field->min + i;
			return true;
		}
	}
	return read_number(text, value);
}

/*
 * Add what one item of a list names, which is cut in doing so.  Returns what
 * is wrong with it, to be said after its text, or NULL.
 */
static const char *
add_item(const Field *field, char *item, uint64 *set)
{
	char *every = strchr(item, '/');
	char *to = strchr(item, '-');
	int first = field->min, last = field->max, step = 1;

	if (every != NULL)
		*every++ = '\0';
	if (to != NULL && (every == NULL || to < every))
		*to++ = '\0';
	else
		to = NULL;

	if (strcmp(item, "*") == 0 && to == NULL)
		last = field->min + field->values - 1;
	else if (!read_value(field, item, &first) ||
			 (to != NULL && !read_value(field, to, &last)))
		return field->nnames == 0
				   ? "is neither a number nor a range of numbers"
				   : psprintf("is neither a number, nor one of the names %s "
							  "to %s, nor a range of them",
							  field->names[0],
							  field->names[field->nnames - 1]);
	else if (every != NULL && to == NULL)
		return psprintf("has a step, but not the range that it goes through, "
						"as in \"%s-%d/%s\"",
						item, field->max, every);
	else if (to == NULL)
		last = first;
	else if (last == 0 && first > 0 && field == &fields[F_WEEKDAY])
		last = 7; /* up to Sunday, the end of a week */

	if (first < field->min || first > field->max || last < field->min ||
		last > field->max)
		return psprintf("is not between %d and %d", field->min, field->max);
	if (last < first)
		return "ends before it begins; make two ranges of it";
	if (every != NULL &&
		(!read_number(every, &step) || step < 1 || step > field->values))
		return psprintf("has a step that is not a number between 1 and %d",
						field->values);

	for (; first <= last; first += step)
		*set |= UINT64CONST(1) << first;
	return NULL;
}

/* Add what a field names: a list.  Returns what is wrong with it, or NULL. */
static const char *
add_field(const Field *field, const char *text, uint64 *set)
{
	const char *p = text;

	for (;;)
	{
		size_t length = strcspn(p, ",");
		char *item = pnstrdup(p, length);
		const char *problem;

		if (length == 0)
			return psprintf("In the field for the %s, \"%s\" has a comma with "
							"nothing before or after it.",
							field->name, text);
		problem = add_item(field, pstrdup(item), set);
		if (problem != NULL)
			return psprintf("In the field for the %s, \"%s\" %s.", field->name,
							item, problem);
		pfree(item);
		if (p[length] == '\0')
			return NULL;
		p += length + 1;
	}
}

/* The expression that a name stands for, NULL if it is not one. */
static const char *
expand(const char *name)
{
	int i;

	for (i = 0; i < lengthof(nicknames); i++)
	{
		if (pg_strcasecmp(name, nicknames[i].name) == 0)
			return nicknames[i].expression;
	}
	return NULL;
}

/* Cut text into words; how many there are, the first FIELDS in words. */
static int
cut(const char *text, char **words)
{
	int n = 0;

	for (text += strspn(text, SPACES); *text; text += strspn(text, SPACES))
	{
		size_t length = strcspn(text, SPACES);

		if (n < FIELDS)
			words[n] = pnstrdup(text, length);
		n++;
		text += length;
	}
	return n;
}

Schedule *
schedule_parse(const char *expression, const char **why)
{
	Schedule *schedule = palloc0(sizeof(Schedule));
	char *words[FIELDS];
	int n = cut(expression, words), i;

	if (n == 1 && words[0][0] == '@')
	{
		const char *meant = expand(words[0]);

		if (meant == NULL)
		{
			*why = psprintf("\"%s\" is not one of @hourly, @daily, @midnight, "
							"@weekly, @monthly, @yearly and @annually.",
							words[0]);
			return NULL;
		}
		n = cut(meant, words);
	}
	if (n != FIELDS && n != 0)
	{
		*why = psprintf("It has %d field%s instead of five.", n,
						n == 1 ? "" : "s");
		return NULL;
	}

	schedule->off = n == 0;
	for (i = 0; i < n; i++)
	{
		*why = add_field(&fields[i], words[i], &schedule->sets[i]);
		if (*why != NULL)
			return NULL;
	}
	if (schedule->sets[F_WEEKDAY] & (1 << 7))
		schedule->sets[F_WEEKDAY] |= 1; /* 7 is Sunday, too */

	/* as in cron, where a star with a step counts as a star */
	schedule->either =
		n > 0 && words[F_DAY][0] != '*' && words[F_WEEKDAY][0] != '*';
	return schedule;
}

/* ---- the calendar ---- */

static bool
has(const Schedule *schedule, FieldName field, int value)
{
	return (schedule->sets[field] >> value & 1) != 0;
}

static bool
day_matches(const Schedule *schedule, int day, int weekday)
{
	if (schedule->either)
		return has(schedule, F_DAY, day) || has(schedule, F_WEEKDAY, weekday);
	return has(schedule, F_DAY, day) && has(schedule, F_WEEKDAY, weekday);
}

/*
 * Move a Julian date on to the first one, itself included, that matches;
 * false if there is none in the whole calendar.
 */
static bool
find_date(const Schedule *schedule, int *date)
{
	int year, month, day, last_year;

	j2date(*date, &year, &month, &day);
	for (last_year = year + CALENDAR_YEARS; year <= last_year; year++)
	{
		for (; month <= MONTHS_PER_YEAR; month++)
		{
			if (has(schedule, F_MONTH, month))
			{
				int first = date2j(year, month, 1);

				for (; day <= day_tab[isleap(year)][month - 1]; day++)
				{
					*date = first + day - 1;
					if (day_matches(schedule, day, j2day(*date)))
						return true;
				}
			}
			day = 1;
		}
		month = 1;
	}
	return false;
}

/* The first minute of a day, from this one on, that matches; -1 if none. */
static int
find_minute(const Schedule *schedule, int minute)
{
	for (; minute < HOURS_PER_DAY * MINS_PER_HOUR; minute++)
	{
		if (has(schedule, F_HOUR, minute / MINS_PER_HOUR) &&
			has(schedule, F_MINUTE, minute % MINS_PER_HOUR))
			return minute;
	}
	return -1;
}

/* The first local time, from this one on, that matches; false if none. */
static bool
find_local(const Schedule *schedule, int64 from, int64 *local)
{
	int64 seconds = from + (int64) UNIX_EPOCH_JDATE * SECS_PER_DAY;
	int today = (int) (seconds / SECS_PER_DAY), date = today;
	int minute = (int) ((seconds % SECS_PER_DAY + SECS_PER_MINUTE - 1) /
						SECS_PER_MINUTE);

	if (!find_date(schedule, &date))
		return false;
	minute = find_minute(schedule, date == today ? minute : 0);
	if (minute < 0)
	{
		date++; /* nothing more on the first day */
		if (!find_date(schedule, &date))
			return false;
		minute = find_minute(schedule, 0);
	}
	*local = (date - (int64) UNIX_EPOCH_JDATE) * SECS_PER_DAY +
			 minute * SECS_PER_MINUTE;
	return true;
}

/* ---- the zone's clock ---- */

/* From `from` until before `until`, local time is ahead of UTC by offset. */
typedef struct Stretch
{
	pg_time_t from, until;
	int64 offset;
} Stretch;

/* The stretch from a moment on. */
static Stretch
stretch_from(pg_tz *zone, pg_time_t from)
{
	Stretch stretch = {from, NEVER, 0};
	long int before = 0, after;
	int before_isdst, after_isdst;
	pg_time_t boundary;

	if (pg_next_dst_boundary(&from, &before, &before_isdst, &boundary, &after,
							 &after_isdst, zone) > 0)
		stretch.until = boundary;
	stretch.offset = before;
	return stretch;
}

/* The latest local time that the zone's clock has shown up to a moment. */
static int64
latest_local(pg_tz *zone, pg_time_t moment)
{
	Stretch stretch = stretch_from(zone, moment - 2 * MAX_OFFSET);
	int64 latest = PG_INT64_MIN;

	for (; stretch.until <= moment;
		 stretch = stretch_from(zone, stretch.until))
		latest = Max(latest, stretch.until - 1 + stretch.offset);
	return Max(latest, moment + stretch.offset);
}

/* The first moment at which the zone's clock shows this time or a later one. */
static pg_time_t
first_moment(pg_tz *zone, int64 local)
{
	Stretch stretch = stretch_from(zone, local - MAX_OFFSET);

	while (local - stretch.offset >= stretch.until)
		stretch = stretch_from(zone, stretch.until);
	return Max(stretch.from, local - stretch.offset);
}

/* Due once for each local time. */
static bool
next_named(const Schedule *schedule, pg_tz *zone, pg_time_t after,
		   pg_time_t *next)
{
	int64 local = latest_local(zone, after) + 1;

	if (!find_local(schedule, local, &local))
		return false;
	*next = first_moment(zone, local);
	return true;
}

/* Due whenever the clock shows a time that matches. */
static bool
next_shown(const Schedule *schedule, pg_tz *zone, pg_time_t after,
		   pg_time_t *next)
{
	Stretch stretch = stretch_from(zone, after + 1);
	int64 local;

	while (find_local(schedule, stretch.from + stretch.offset, &local))
	{
		*next = local - stretch.offset;
		if (*next < stretch.until)
			return true;
		stretch = stretch_from(zone, stretch.until);
	}
	return false;
}

/* ---- interface ---- */

pg_tz *
schedule_zone(const char *name)
{
	pg_tz *zone = pg_tzset(name);

	return zone != NULL && pg_tz_acceptable(zone) ? zone : NULL;
}

/* Start of a year, UTC. */
static TimestampTz
year_start(int year)
{
	return (date2j(year, 1, 1) - POSTGRES_EPOCH_JDATE) * USECS_PER_DAY;
}

bool
schedule_covers(TimestampTz t)
{
	return t >= year_start(1) && t < year_start(10000);
}

bool
schedule_next(const Schedule *schedule, pg_tz *zone, TimestampTz after,
			  TimestampTz *next)
{
	const int64 epoch = year_start(1970);
	pg_time_t seconds;
	bool found;

	if (schedule->off || !schedule_covers(after))
		return false;
	seconds = (after - epoch) / USECS_PER_SEC;
	if (seconds * USECS_PER_SEC + epoch > after)
		seconds--; /* before 1970 */

	if (schedule->sets[F_HOUR] == ALL_HOURS)
		found = next_shown(schedule, zone, seconds, &seconds);
	else
		found = next_named(schedule, zone, seconds, &seconds);
	*next = seconds * USECS_PER_SEC + epoch;
	return found && schedule_covers(*next);
}
