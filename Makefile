# ekksync: two-way sync of a Django member registry with Firestore
#
#   make, make install      build and install, for the server of PG_CONFIG
#   make deps               install what is missing (apt)
#   make demo               a fresh playground: what ekksync does, step by step
#   make up, make down      a playground that stays (MEMBERS=n), and its end
#   make check              build with gcc and clang, run every test, or those
#                           whose names contain a word of TESTS="..."
#   make mutants            take mechanisms out, one at a time, and see their
#                           tests fail: all, or MUTANTS="..." by their names
#   make installcheck       pg_regress on a running server, ekksync installed
#   make format             clang-format over the C sources; check wants them so
#
# WERROR=1 turns every warning into an error; STEPS=1 makes a test build, in
# which a run can be stopped at its named steps (src/steps.h).  Everything that demo, up and
# check make is kept in .dev/.

MODULE_big = ekksync
EXTENSION = ekksync
DATA = $(wildcard sql/*--*.sql)
OBJS = $(patsubst %.c,%.o,$(sort $(wildcard src/*.c)))

LIBRARIES = libcurl libcjson libcrypto

# Everything here but the playground needs PGXS, which wants a target "check"
# of its own: so the two are kept apart.
PLAYGROUND = deps demo up down check mutants format
ifeq ($(filter $(PLAYGROUND),$(MAKECMDGOALS)),)

PG_CONFIG ?= pg_config
PKG_CONFIG ?= pkg-config
PG_CPPFLAGS = $(shell $(PKG_CONFIG) --cflags $(LIBRARIES))
SHLIB_LINK = $(shell $(PKG_CONFIG) --libs $(LIBRARIES))

# -Wextra adds three warnings that PostgreSQL's own headers and macros raise:
# parameters that an interface prescribes and a function does not use
# (fcinfo), signed with unsigned comparison (inline functions in headers), and
# initializers that leave the rest zero.  Where gcc built PostgreSQL, clang
# does not know all of its flags nor its printf attribute.
ifdef WERROR
PG_CFLAGS += -Wall -Wextra -Werror -Wno-unused-parameter -Wno-sign-compare \
	-Wno-missing-field-initializers
ifneq ($(findstring clang,$(CC)),)
PG_CFLAGS += -Wno-unknown-warning-option -Wno-ignored-optimization-argument \
	-Wno-ignored-attributes
endif
endif

ifdef STEPS
PG_CPPFLAGS += -DEKKSYNC_STEPS
endif

# No bitcode: inlining into queries gains nothing here, and it would make the
# build need clang.  A plain assignment would be lost in Makefile.global.
override with_llvm = no

# pg_regress wants its input in a directory sql/; ours is the installation
# script's.  Links and results go where nothing is committed.
REGRESS = $(patsubst sql-tests/%.sql,%,$(sort $(wildcard sql-tests/*.sql)))
REGRESS_DIR = .dev/regress
REGRESS_OPTS = --inputdir=$(REGRESS_DIR) --outputdir=$(REGRESS_DIR)

PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

$(OBJS): $(wildcard src/*.h) Makefile

installcheck: regress-dir
.PHONY: regress-dir
regress-dir:
	@mkdir -p $(REGRESS_DIR)
	@ln -sfn $(CURDIR)/sql-tests $(REGRESS_DIR)/sql
	@ln -sfn $(CURDIR)/expected $(REGRESS_DIR)/expected

# C unit programs: t/NAME_test.c tests src/NAME.c, which must build without
# the server, under the address and undefined-behaviour sanitizers.
UNIT_DIR = .dev/unit
UNIT_TESTS = $(patsubst t/%.c,$(UNIT_DIR)/%,$(sort $(wildcard t/*_test.c)))
UNIT_CFLAGS = -std=gnu99 -g -O1 -Wall -Wextra -Werror -Isrc \
	-fsanitize=address,undefined -fno-sanitize-recover=undefined

.PHONY: unit
unit: $(UNIT_TESTS)

$(UNIT_DIR)/%_test: t/%_test.c src/%.c $(wildcard src/*.h) Makefile
	@mkdir -p $(UNIT_DIR)
	$(CC) $(UNIT_CFLAGS) -o $@ t/$*_test.c src/$*.c

$(UNIT_DIR)/merge_search_test: t/merge_search_test.c src/merge.c src/merge.h Makefile
	@mkdir -p $(UNIT_DIR)
	$(CC) $(UNIT_CFLAGS) -o $@ $(filter %.c,$^)

else

.PHONY: $(PLAYGROUND)
deps demo up down check:
	@PG_CONFIG="$(PG_CONFIG)" MEMBERS="$(MEMBERS)" TESTS="$(TESTS)" dev/$@.sh

mutants:
	@PG_CONFIG="$(PG_CONFIG)" dev/mutants.pl $(MUTANTS)

format:
	clang-format -i $(wildcard src/*.[ch] t/*.c)

# Goals named beside one of these, as in "make clean check".
OTHERS = $(filter-out $(PLAYGROUND),$(MAKECMDGOALS))
ifneq ($(OTHERS),)
.PHONY: $(OTHERS)
$(OTHERS):
	$(MAKE) $@
endif

endif
