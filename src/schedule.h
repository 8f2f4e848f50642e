/*
 * schedule.h
 *		When a schedule in cron's form is due, in a time zone: a pure function
 *		of expression, zone and time.
 */
#ifndef EKKSYNC_SCHEDULE_H
#define EKKSYNC_SCHEDULE_H

#include "datatype/timestamp.h"
#include "pgtime.h"

typedef struct Schedule Schedule;

/* What to tell those whose expression or zone is refused. */
#define SCHEDULE_HINT                                                         \
	"A schedule has five fields: minute, hour, day of the month, month, day " \
	"of the week, as \"30 3 * * *\" has; or it is @hourly, @daily, @weekly, " \
	"@monthly or @yearly; or it is empty, for never."
#define SCHEDULE_ZONE_HINT                                                    \
	"The names of time zones are in the view pg_timezone_names."

/*
 * The schedule that expression describes, palloc'd in CurrentMemoryContext, in
 * which scratch is left, too; an empty one is never due.  If it is malformed:
 * NULL, and *why is a sentence that says what is wrong, palloc'd.
 */
extern Schedule *schedule_parse(const char *expression, const char **why);

/*
 * The time zone of this name, in any case; NULL if there is none, or if it
 * has leap seconds, which PostgreSQL's times do not.  It is never freed.
 */
extern pg_tz *schedule_zone(const char *name);

/*
 * Is this time in the years 1 to 9999 (UTC), for which schedules are told?  An
 * infinite one is not.
 */
extern bool schedule_covers(TimestampTz t);

/*
 * The first moment strictly after `after` at which the schedule is due in the
 * zone; false if it never is, or if schedule_covers() has one of the two not.
 *
 * A schedule that names hours is due once for each local time that it names,
 * at the first moment at which the zone's clock shows that time or a later
 * one: when a time comes twice, at the first; when a time is skipped, at the
 * end of the gap, once for all that was skipped.  A schedule for every hour
 * follows the clock as it goes: in an hour that comes twice it is due in
 * both, in one that is skipped in neither.
 */
extern bool schedule_next(const Schedule *schedule, pg_tz *zone,
						  TimestampTz after, TimestampTz *next);

#endif /* EKKSYNC_SCHEDULE_H */
