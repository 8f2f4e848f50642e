/*
 * held.h
 *		Conflicts that wait for a person.
 */
#ifndef EKKSYNC_HELD_H
#define EKKSYNC_HELD_H

#include "run.h"

/*
 * After the decisions about members, and their conflicts, are recorded, in the
 * same transaction: close, by the run's name, conflicts that are held no
 * longer, since the field is decided now or held for another value.
 */
extern void held_close(Run *run, Member **members, int n);

#endif /* EKKSYNC_HELD_H */
