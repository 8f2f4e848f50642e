#!/usr/bin/env bash
# check.sh: build with gcc, as a test build, and with clang, every warning an error, look whether
# the C sources are formatted, and run all tests: C units, pg_regress, TAP.  The
# last line is "N passed, N failed"; the exit status is 0 only if something ran
# and nothing failed.  TESTS="..." limits the tests to those whose names contain
# one of its words.  The logs stay in .dev/check/log, and after a failure
# everything else there too.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

"$top/dev/deps.sh"

state=$dev/check
state_claim "$state"
stage=$state/stage
log=$state/log
passed=0
failed=0
ran=0							# 1: some test was run, beside the builds

trap 'emulator_stop "$state"' EXIT
trap 'exit 130' INT TERM

finish()
{
	emulator_stop "$state"
	rm -f "$state/owner"
	printf "\n%d passed, %d failed\n" "$passed" "$failed"
	[ "$failed" -eq 0 ] && [ "$ran" -eq 1 ] || exit 1
	cd "$state"
	rm -rf stage regress tap tmp home
	exit 0
}

# Is the test of this name wanted?
wanted()
{
	local word
	[ -n "${TESTS:-}" ] || return 0
	for word in $TESTS; do
		[[ $1 != *$word* ]] || return 0
	done
	return 1
}

# Run make with compiler $1, warnings as errors, and the remaining arguments.
# shellcheck disable=SC2317	# called through step
build_with()
{
	build_in "$1" CC="$1" WERROR=1 "${@:2}"
}

# Count a step that is one test: $1 names it, the rest is the command.
step()
{
	local name=$1 file
	shift
	file=$log/${name// /-}.log
	if ("$@") >"$file" 2>&1; then
		passed=$((passed + 1))
		say "ok: $name"
	else
		failed=$((failed + 1))
		say "FAILED: $name"
		tail -n 40 "$file"
		return 1
	fi
}

# Regression tests on a temporary cluster.  Needs the emulator.
regress()
{
	local dir=$state/regress tests=() name args=() ok bad
	if [ -f "$top/sql-tests/schedule" ] && [ -z "${TESTS:-}" ]; then
		args=(--schedule="$top/sql-tests/schedule")
	else
		for name in "$top"/sql-tests/*.sql; do
			name=$(basename "$name" .sql)
			if [ -f "$top/sql-tests/$name.sql" ] && wanted "sql-tests/$name"; then
				tests+=("$name")
			fi
		done
		[ ${#tests[@]} -gt 0 ] || return 0
	fi
	server_dirs "$dir"
	ln -sfn "$top/sql-tests" "$dir/sql"
	ln -sfn "$top/expected" "$dir/expected"
	{
		stage_conf "$stage"
		say "shared_preload_libraries = 'ekksync'"
		say "ekksync.emulator_host = '$emulator_host'"
	} >"$dir/temp.conf"
	printf "\npg_regress\n"
	"${as_server[@]}" env "${test_env[@]}" "$pgxs/../test/regress/pg_regress" \
		--inputdir="$dir" --outputdir="$dir" --bindir="$bin" \
		--temp-instance="$dir/instance" --temp-config="$dir/temp.conf" --no-locale --encoding=UTF8 \
		--dbname=contrib_regression "${args[@]}" "${tests[@]}" 2>&1 | tee "$log/regress.log" || true
	ok=$(grep -cE '^ok [0-9]|^(test|   ) .*\.\.\. ok( |$)' "$log/regress.log" || true)
	bad=$(grep -cE '^not ok [0-9]|^(test|   ) .*\.\.\. FAILED' "$log/regress.log" || true)
	if ! grep -qE 'All [0-9]+ tests passed' "$log/regress.log" && [ "$bad" -eq 0 ]; then
		bad=1
	fi
	passed=$((passed + ok))
	failed=$((failed + bad))
	ran=1
	if [ "$bad" -gt 0 ]; then
		cp "$dir/regression.diffs" "$log/" 2>/dev/null && head -n 120 "$log/regression.diffs"
		tail -n 20 "$dir/log/postmaster.log" 2>/dev/null || true
		cp "$dir/log/postmaster.log" "$log/regress-postmaster.log" 2>/dev/null || true
	fi
}

# Unit programs and TAP scripts.
tap()
{
	local dir=$state/tap tests=() name ok bad names
	for name in "$dev"/build/gcc/t/*_test.c; do
		name=$(basename "$name" .c)
		if [ -f "$top/t/$name.c" ] && wanted "t/$name"; then
			tests+=("$dev/build/gcc/.dev/unit/$name")
		fi
	done
	for name in "$top"/t/*.pl; do
		if [ -f "$name" ] && wanted "t/$(basename "$name")"; then
			tests+=("$name")
		fi
	done
	[ ${#tests[@]} -gt 0 ] || return 0
	server_dirs "$dir"
	printf "\nTAP\n"
	# tests wait a good deal: one more than there are processors
	(cd "$dir" && "${as_server[@]}" env "${test_env[@]}" TESTDIR="$dir" \
		PG_REGRESS="$pgxs/../test/regress/pg_regress" \
		EKKSYNC_TOP="$top" EKKSYNC_CONF="$(stage_conf "$stage")" \
		perl "$top/dev/tap.pl" --jobs "$(($(nproc) + 1))" --total "$dir/total" \
		--include "$pgxs/../test/perl" --include "$top/t" -- "${tests[@]}") 2>&1 |
		tee "$log/tap.log" || true
	cp -R "$dir/tmp_check/log" "$log/tap" 2>/dev/null || true
	if ! read -r ok bad names <"$dir/total"; then
		ok=0 bad=1 names=
	fi
	passed=$((passed + ok))
	failed=$((failed + bad))
	ran=1
	for name in $names; do
		printf '\n%s\n' "--- $name"
		if [[ $name == *.pl ]]; then
			tail -n 40 "$log/tap/regress_log_$(basename "$name" .pl)" || true
		else
			("${as_server[@]}" "$name" 2>&1 || true) | grep -v '^ok' | head -n 40
		fi
	done
}

mkdir -p "$log"
step "build with gcc" build_with gcc STEPS=1 all || finish
step "install" build_with gcc STEPS=1 install DESTDIR="$stage" || finish
step "build with clang" build_with clang all || true
if compgen -G "$top/t/*_test.c" >/dev/null; then
	step "build unit programs" build_with gcc unit || true
fi
step "mutants fit the sources" perl "$top/dev/mutants.pl" --check || true
step "formatted as .clang-format says" \
	clang-format --dry-run -Werror "$top"/src/*.[ch] "$top"/t/*.c || true
if wanted t/130_page.pl; then
	step "install the Firebase SDK" "$top/dev/page.sh" || true
fi

choose_server_user
step "start the emulator" emulator_start "$state" || finish
emulator_host=127.0.0.1:$(cut -d' ' -f2 "$state/emulator.pid")
choose_server_user

bin=$("$PG_CONFIG" --bindir)
pgxs=$(dirname "$("$PG_CONFIG" --pgxs)")
server_dirs "$state" "$state/home"
# Sockets of the tests' clusters live in a temporary directory, whose name
# must stay short.
tmp=$state/tmp
[ "$(printf %s "$tmp" | wc -c)" -le 70 ] || tmp=/tmp
test_env=(HOME="$state/home" PATH="$bin:$PATH" TMPDIR="$tmp" LC_ALL=C.UTF-8
	FIRESTORE_EMULATOR_HOST="$emulator_host")

regress
tap
finish
