/*
 * giveway.h
 *		A run must not keep its database from being dropped or copied.
 */
#ifndef EKKSYNC_GIVEWAY_H
#define EKKSYNC_GIVEWAY_H

/*
 * In a run's worker, now and then, where it may end: at each transaction's
 * beginning, and about twice a second while it waits.  Ends the process, as
 * SIGTERM would, if somebody waits for the database.  Cheap.
 */
extern void give_way(void);

#endif /* EKKSYNC_GIVEWAY_H */
