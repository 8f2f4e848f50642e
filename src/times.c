/*
 * times.c
 *		Dates and times in the two forms of text that documents use: ISO 8601
 *		dates and RFC 3339 times.
 *
 * The server's own parsers are not used: they accept far more, depend on
 * settings, and throw.  May not know: codecs, Values.
 */
#include "postgres.h"

#include "utils/datetime.h"

#include "codecs.h"

#define MIN_YEAR 1
#define MAX_YEAR 9999

/* Read exactly n digits. */
static bool
read_digits(const char **p, int n, int *number)
{
	*number = 0;
	for (; n > 0; n--)
	{
		if (**p < '0' || **p > '9')
			return false;
		*number = *number * 10 + (*(*p)++ - '0');
	}
	return true;
}

static bool
read_char(const char **p, char c)
{
	if (**p != c)
		return false;
	(*p)++;
	return true;
}

/* YYYY-MM-DD; false also for a day that the month does not have. */
static bool
read_date(const char **p, DateADT *date)
{
	int year, month, day;

	if (!read_digits(p, 4, &year) || !read_char(p, '-') ||
		!read_digits(p, 2, &month) || !read_char(p, '-') ||
		!read_digits(p, 2, &day))
		return false;
	if (year < MIN_YEAR || month < 1 || month > MONTHS_PER_YEAR || day < 1 ||
		day > day_tab[isleap(year) ? 1 : 0][month - 1])
		return false;

	*date = date2j(year, month, day) - POSTGRES_EPOCH_JDATE;
	return true;
}

/* HH:MM:SS with any fraction, in microseconds; further digits are cut. */
static bool
read_time(const char **p, int64 *usecs)
{
	int hour, minute, second, digit, unit = USECS_PER_SEC / 10;

	if (!read_digits(p, 2, &hour) || hour >= HOURS_PER_DAY ||
		!read_char(p, ':') || !read_digits(p, 2, &minute) ||
		minute >= MINS_PER_HOUR || !read_char(p, ':') ||
		!read_digits(p, 2, &second) || second >= SECS_PER_MINUTE)
		return false;
	*usecs =
		((hour * MINS_PER_HOUR + minute) * (int64) SECS_PER_MINUTE + second) *
		USECS_PER_SEC;

	if (!read_char(p, '.'))
		return true;
	if (!read_digits(p, 1, &digit))
		return false;
	do
	{
		*usecs += (int64) digit * unit;
		unit /= 10;
	} while (read_digits(p, 1, &digit));
	return true;
}

/* Z or +HH:MM, in microseconds east of Greenwich. */
static bool
read_offset(const char **p, int64 *usecs)
{
	int sign, hour, minute;

	*usecs = 0;
	if (read_char(p, 'Z') || read_char(p, 'z'))
		return true;

	sign = (**p == '-') ? -1 : 1;
	if (!(read_char(p, '-') || read_char(p, '+')) ||
		!read_digits(p, 2, &hour) || hour >= HOURS_PER_DAY ||
		!read_char(p, ':') || !read_digits(p, 2, &minute) ||
		minute >= MINS_PER_HOUR)
		return false;
	*usecs = sign * (hour * MINS_PER_HOUR + minute) * USECS_PER_MINUTE;
	return true;
}

/* See codecs.h. */
bool
date_parse(const char *text, DateADT *date)
{
	return read_date(&text, date) && *text == '\0';
}

/* See codecs.h. */
char *
date_format(DateADT date)
{
	int year, month, day;

	j2date(date + POSTGRES_EPOCH_JDATE, &year, &month, &day);
	return psprintf("%04d-%02d-%02d", year, month, day);
}

/* See codecs.h.  Infinite dates are the ends of DateADT's range. */
bool
date_in_range(DateADT date)
{
	return date >= date2j(MIN_YEAR, 1, 1) - POSTGRES_EPOCH_JDATE &&
		   date < date2j(MAX_YEAR + 1, 1, 1) - POSTGRES_EPOCH_JDATE;
}

/* See codecs.h. */
bool
time_in_range(TimestampTz t)
{
	int64 first = date2j(MIN_YEAR, 1, 1) - POSTGRES_EPOCH_JDATE;
	int64 end = date2j(MAX_YEAR + 1, 1, 1) - POSTGRES_EPOCH_JDATE;

	return t >= first * USECS_PER_DAY && t < end * USECS_PER_DAY;
}

/*
 * RFC 3339 with any offset -> TimestampTz; digits beyond microseconds are cut
 * (as Firestore does).  False when text is not one, is a leap second, or is
 * outside the years 1 to 9999.
 */
bool
time_parse(const char *text, TimestampTz *t)
{
	DateADT date;
	int64 time, offset;

	if (!read_date(&text, &date) ||
		!(read_char(&text, 'T') || read_char(&text, 't')) ||
		!read_time(&text, &time) || !read_offset(&text, &offset) ||
		*text != '\0')
		return false;

	*t = date * USECS_PER_DAY + time - offset;
	return time_in_range(*t);
}

/*
 * TimestampTz in the years 1 to 9999 -> "2026-11-22T13:39:02.250584Z", always
 * UTC with six digits; palloc'd.
 */
char *
time_format(TimestampTz t)
{
	int64 days = t / USECS_PER_DAY;
	int64 usecs = t % USECS_PER_DAY;
	int year, month, day;

	if (usecs < 0)
	{
		usecs += USECS_PER_DAY;
		days--;
	}
	j2date((int) days + POSTGRES_EPOCH_JDATE, &year, &month, &day);

	return psprintf("%04d-%02d-%02dT%02d:%02d:%02d.%06dZ", year, month, day,
					(int) (usecs / USECS_PER_HOUR),
					(int) (usecs / USECS_PER_MINUTE % MINS_PER_HOUR),
					(int) (usecs / USECS_PER_SEC % SECS_PER_MINUTE),
					(int) (usecs % USECS_PER_SEC));
}
