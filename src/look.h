/*
 * look.h
 *		What the functions that show have in common.
 */
#ifndef EKKSYNC_LOOK_H
#define EKKSYNC_LOOK_H

#include "firestore.h"

/*
 * A Firestore client for one statement of a session, with the session's
 * settings and few retries; lives in cxt.  Throws when no project is set.
 */
extern FsClient *look_client(MemoryContext cxt);

#endif /* EKKSYNC_LOOK_H */
