/*
 * mapload.h
 *		Reading the mapping from its tables.  For mapping.c only.
 */
#ifndef EKKSYNC_MAPLOAD_H
#define EKKSYNC_MAPLOAD_H

#include "mapping.h"

/*
 * The mapping as its tables say now, in a new memory context below parent;
 * NULL when nothing is attached.  What cannot be used is said in the problem
 * of the mapping, of a field or of a watched table; errors are not thrown,
 * but for a cancel or shutdown.
 */
extern Mapping *mapload(MemoryContext parent);

#endif /* EKKSYNC_MAPLOAD_H */
