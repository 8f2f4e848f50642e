/*
 * firstcontact.h
 *		Notes the members that are there when a table is attached.
 */
#ifndef EKKSYNC_FIRSTCONTACT_H
#define EKKSYNC_FIRSTCONTACT_H

#include "attach.h"

/*
 * Report doubled and malformed keys; note each other key in scope as never
 * synced, and when triggers had been missing, every member as due.  Attaching
 * again with nothing missed notes nothing.
 */
extern void first_contact(Attach *attach);

#endif /* EKKSYNC_FIRSTCONTACT_H */
