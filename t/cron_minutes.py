#!/usr/bin/env python3
"""When cron expressions are due, found out minute by minute.

    cron_minutes.py [--list] ZONE FIRST_YEAR LAST_YEAR < expressions

The judge of src/schedule.c in t/100_schedule.pl, and written without it: goes
through all minutes of the years (UTC), asks Python's zoneinfo what a clock in
the zone shows, and looks which expressions match that.  An expression that
names hours is not due at a time that the clock shows for the second time; when
the clock leaps, it is due if any time that was leapt over matches.  One for
every hour is due whenever what the clock shows matches.

Prints for each expression, a line each, how often it is due, and the MD5 of
the moments (seconds since 1970, with a space between two); with --list the
moments themselves.
"""

import hashlib
import sys
from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

MONTHS = "JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC".split()
DAYS = "SUN MON TUE WED THU FRI SAT".split()
MACROS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * SUN",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 JAN *",
    "@annually": "0 0 1 JAN *",
}


class Expression:
    """The sets of values that an expression's fields name."""

    def __init__(self, text):
        text = text.strip()
        minute, hour, day, month, weekday = MACROS.get(text, text).split()
        self.minutes = self.values(minute, range(60))
        self.hours = self.values(hour, range(24))
        self.days = self.values(day, range(1, 32))
        self.months = self.values(month, range(1, 13), MONTHS, 1)
        self.weekdays = {
            n % 7 for n in self.values(weekday, range(8), DAYS, 0)
        }
        self.every_hour = len(self.hours) == 24
        self.all_days = day.startswith("*")
        self.all_weekdays = weekday.startswith("*")

    @staticmethod
    def values(field, domain, names=(), first_name=0):
        def number(word):
            if word.upper() in names:
                return names.index(word.upper()) + first_name
            return int(word)

        named = set()
        for item in field.split(","):
            span, _, step = item.partition("/")
            if span == "*":
                some = domain
            elif "-" in span:
                low, high = (number(word) for word in span.split("-"))
                some = range(low, high + 1)
            else:
                some = range(number(span), number(span) + 1)
            named.update(list(some)[:: int(step or 1)])
        return named

    def on(self, date):
        """Is it due on this date at all?"""
        by_day = date.day in self.days
        by_weekday = date.isoweekday() % 7 in self.weekdays
        if date.month not in self.months:
            return False
        if self.all_days or self.all_weekdays:
            return by_day and by_weekday
        return by_day or by_weekday

    def at(self, hour, minute):
        return hour in self.hours and minute in self.minutes


def moments(expressions, zone, first_year, last_year):
    """Yield (index of an expression, seconds since 1970), in order of time."""
    at = {
        (hour, minute): [
            i for i, e in enumerate(expressions) if e.at(hour, minute)
        ]
        for hour in range(24)
        for minute in range(60)
    }
    start = int(datetime(first_year, 1, 1, tzinfo=timezone.utc).timestamp())
    end = int(datetime(last_year + 1, 1, 1, tzinfo=timezone.utc).timestamp())
    today, due_today = None, {}

    def matching(shown):
        nonlocal today, due_today
        candidates = at[shown.hour, shown.minute]
        if candidates and shown.date() != today:
            today = shown.date()
            due_today = {i: e.on(today) for i, e in enumerate(expressions)}
        return [i for i in candidates if due_today[i]]

    # Of one zone, times are compared, and minutes added, as a clock shows them.
    expected = datetime.fromtimestamp(start, zone)
    minute = timedelta(minutes=1)
    for second in range(start, end, 60):
        shown = datetime.fromtimestamp(second, zone)
        due = matching(shown)
        if shown.fold:  # for the second time
            due = [i for i in due if expressions[i].every_hour]
        while expected < shown:  # leapt over
            for i in matching(expected):
                if not expressions[i].every_hour and i not in due:
                    due.append(i)
            expected += minute
        expected = shown + minute
        for i in due:
            yield i, second


def main():
    arguments = sys.argv[1:]
    as_list = arguments[0] == "--list"
    name, first_year, last_year = arguments[as_list:]
    expressions = [Expression(line) for line in sys.stdin.read().splitlines()]
    due = [[] for _ in expressions]
    for i, second in moments(
        expressions, ZoneInfo(name), int(first_year), int(last_year)
    ):
        due[i].append(str(second))
    for seconds in due:
        text = " ".join(seconds)
        print(
            text
            if as_list
            else f"{len(seconds)} {hashlib.md5(text.encode()).hexdigest()}"
        )


if __name__ == "__main__":
    main()
