/*
 * srf.h
 *		Set-returning functions in materialize mode.
 */
#ifndef EKKSYNC_SRF_H
#define EKKSYNC_SRF_H

#include "funcapi.h"
#include "utils/tuplestore.h"

/*
 * Prepare the result set of the calling function: an empty tuplestore in the
 * query's memory context, and its row type.  Throws when the call cannot take
 * a set.
 */
extern Tuplestorestate *srf_begin(FunctionCallInfo fcinfo, TupleDesc *desc);

#endif /* EKKSYNC_SRF_H */
