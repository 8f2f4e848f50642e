# lib.sh: what the scripts in dev/ share.  To be sourced.
# shellcheck shell=bash
#
# A playground is a directory (its "state") that holds a private PostgreSQL
# cluster and a Firestore emulator, with their sockets, logs and pids:
#
#	data/ run/ tmp/ postgres.log emulator.log emulator.pid ports pgpass

set -euo pipefail
umask 022

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
dev=$top/.dev
stage=$dev/stage
PG_CONFIG=${PG_CONFIG:-pg_config}
role=socialism					# owner of the registry, and its database

# A playground of its own, whatever the caller's shell points at.
unset PGHOST PGHOSTADDR PGPORT PGUSER PGDATABASE PGPASSWORD PGPASSFILE \
	PGSERVICE PGOPTIONS PGSSLMODE PGDATA FIRESTORE_EMULATOR_HOST EKKSYNC_PROJECT
unset MAKEFLAGS MAKELEVEL MFLAGS

say()
{
	printf '%s\n' "$*"
}

# The first argument says what is wrong, each further one is a line of help.
fail()
{
	{
		printf 'ekksync: %s\n' "$1"
		shift
		[ $# -eq 0 ] || printf '  %s\n' "$@"
	} >&2
	exit 1
}

# --------------------------------------------------------------- ports, user

# A port of 127.0.0.1 that nobody listens on, below the range from which the
# kernel takes ports for outgoing connections.
free_port()
{
	perl -MIO::Socket::INET -e '
		for (1 .. 200) {
			my $port = 20000 + int rand 12000;
			my $s = IO::Socket::INET->new(LocalAddr => "127.0.0.1",
				LocalPort => $port, Listen => 1) or next;
			print $port;
			exit 0;
		}
		exit 1' || fail "no free port on 127.0.0.1"
}

# Set the array as_server: the prefix that runs a command as the user who may
# run PostgreSQL.  That is the caller, or, for root, the user postgres.  When
# the checkout or another path given lies where postgres may not go (/root),
# the prefix adds the one capability that lets it pass.
choose_server_user()
{
	local cap
	as_server=()
	[ "$(id -u)" -eq 0 ] || return 0
	id postgres >/dev/null 2>&1 ||
		fail "there is no user postgres; run: make deps"
	for cap in '' +dac_read_search +dac_override; do
		as_server=(setpriv --reuid=postgres --regid=postgres --init-groups)
		[ -z "$cap" ] || as_server+=("--inh-caps=$cap" "--ambient-caps=$cap")
		# stat really goes there; test -x would not count capabilities
		if "${as_server[@]}" stat -- "$top/." "$@" >/dev/null 2>&1; then
			return 0
		fi
	done
	fail "user postgres cannot enter $top, and PostgreSQL does not run as root" \
		"Move the checkout to a place that all may enter, or run make as an ordinary user."
}

# Make directories that the server's user owns.
server_dirs()
{
	mkdir -p "$@"
	[ ${#as_server[@]} -eq 0 ] || chown postgres:postgres "$@"
}

# ------------------------------------------------------------------ building

# Run make with the arguments after the first in .dev/build/$1, a copy of the
# sources that keeps its objects for the next time; one script at a time.  A
# file is copied when it differs, and is then new to make, whatever its date.
build_in()
(
	dir=$dev/build/$1
	shift
	mkdir -p "$dir/src" "$dir/sql" "$dir/t"
	exec 9>"$dev/lock"
	flock 9
	cd "$top"
	for file in "$dir"/src/*.[ch] "$dir"/sql/* "$dir"/t/*; do
		[ -e "${file#"$dir/"}" ] || rm -f "$file" "$dir/ekksync.so"
	done
	for file in Makefile ekksync.control src/*.[ch] sql/* t/*_test.c; do
		cmp -s "$file" "$dir/$file" || [ ! -f "$file" ] || cp "$file" "$dir/$file" || exit
	done
	make -s -C "$dir" -j"$(nproc)" PG_CONFIG="$PG_CONFIG" "$@"
)

# Build what the playgrounds use, and install it under .dev/stage.
build()
{
	build_in playground install CC=gcc DESTDIR="$stage" >/dev/null || fail "the build failed"
}

# Lines for postgresql.conf that make a server find the extension under $1.
stage_conf()
{
	local root=$1 major share lib
	major=$("$PG_CONFIG" --version | sed 's/^[^0-9]*\([0-9]*\).*/\1/')
	share=$("$PG_CONFIG" --sharedir)
	lib=$("$PG_CONFIG" --pkglibdir)
	if [ "$major" -ge 18 ]; then
		say "extension_control_path = '$root$share:\$system'"
	else
		say "extension_destdir = '$root'"
	fi
	say "dynamic_library_path = '$root$lib:\$libdir'"
}

# ------------------------------------------------------------------ emulator

# Path of the emulator's jar on stdout.
emulator_jar()
{
	local dir jar
	if [ -n "${EKKSYNC_EMULATOR_JAR:-}" ]; then
		[ -r "$EKKSYNC_EMULATOR_JAR" ] ||
			fail "cannot read EKKSYNC_EMULATOR_JAR ($EKKSYNC_EMULATOR_JAR)"
		say "$EKKSYNC_EMULATOR_JAR"
		return
	fi
	# The usual places first: gcloud itself takes a second to answer.
	for dir in /usr/lib/google-cloud-sdk /usr/share/google-cloud-sdk \
		/opt/google-cloud-sdk /snap/google-cloud-cli/current \
		"${HOME:-/root}/google-cloud-sdk" gcloud; do
		if [ "$dir" = gcloud ]; then
			dir=$(timeout 20 gcloud info --format='value(installation.sdk_root)' 2>/dev/null || true)
		fi
		jar=$dir/platform/cloud-firestore-emulator/cloud-firestore-emulator.jar
		if [ -n "$dir" ] && [ -r "$jar" ]; then
			say "$jar"
			return
		fi
	done
	jar=$(find "${HOME:-/root}/.cache/firebase/emulators" -maxdepth 1 -name 'cloud-firestore-emulator*.jar' 2>/dev/null | sort -V | tail -n 1)
	[ -z "$jar" ] || { say "$jar"; return; }
	fail "the Firestore emulator is not on this machine; get it in one of two ways:" \
		"gcloud components install cloud-firestore-emulator" \
		"  (with Google's apt repository: apt-get install google-cloud-cli-firestore-emulator)" \
		"npx firebase-tools setup:emulators:firestore" \
		"Or set EKKSYNC_EMULATOR_JAR to the path of its jar."
}

# Start an emulator with its state in $1; sets emulator_host.
emulator_start()
{
	local state=$1 jar port pid
	jar=$(emulator_jar)
	port=$(free_port)
	emulator_host=127.0.0.1:$port
	choose_server_user "$jar"
	server_dirs "$state" "$state/tmp"
	# No temporary files but in $state, and a heap that ends.
	setsid "${as_server[@]}" java -Xmx"${EKKSYNC_EMULATOR_HEAP:-1g}" -XX:-UsePerfData \
		-Djava.io.tmpdir="$state/tmp" -Duser.language=en -cp "$jar" \
		com.google.cloud.datastore.emulator.firestore.CloudFirestore \
		--host=127.0.0.1 --port="$port" --websocket_port="$(free_port)" \
		>"$state/emulator.log" 2>&1 </dev/null &
	pid=$!
	say "$pid $port" >"$state/emulator.pid"
	for ((i = 0; i < 600; i++)); do
		if [ "$(curl -s -m 2 --noproxy '*' "http://$emulator_host/" || true)" = Ok ]; then
			return 0
		fi
		kill -0 "$pid" 2>/dev/null || break
		sleep 0.1
	done
	tail -n 20 "$state/emulator.log" >&2
	fail "the Firestore emulator did not start; its log is above"
}

# True while the emulator of state $1 runs; a number that another process has
# now is not taken for it.
emulator_alive()
{
	local pid port
	[ -r "$1/emulator.pid" ] && read -r pid port <"$1/emulator.pid" || return 1
	grep -qszxF -- "--port=$port" "/proc/$pid/cmdline"
}

emulator_stop()
{
	local pid
	emulator_alive "$1" || return 0
	read -r pid _ <"$1/emulator.pid"
	kill "$pid" 2>/dev/null || true
	for ((i = 0; i < 100; i++)); do
		emulator_alive "$1" || return 0
		sleep 0.1
	done
	kill -9 "$pid" 2>/dev/null || true
}

# ------------------------------------------------------------------- cluster

# Create and start a cluster with its state in $1, in which the superuser
# postgres needs the password in $1/pgpass over TCP; sets pg_host and pg_port.
server_start()
{
	local state=$1 bin password
	bin=$("$PG_CONFIG" --bindir)
	choose_server_user
	server_dirs "$state" "$state/run"
	chmod 700 "$state/run"
	pg_port=$(free_port)
	pg_host=$state/run
	# A socket's path ends at 107 bytes; .s.PGSQL.NNNNN takes 15 of them.
	[ "$(printf %s "$pg_host" | wc -c)" -le 92 ] || pg_host=127.0.0.1
	say "$pg_host $pg_port" >"$state/ports"

	password=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
	(umask 077 && say "$password" >"$state/password" &&
		say "*:*:*:postgres:$password" >"$state/pgpass")
	[ ${#as_server[@]} -eq 0 ] || chown postgres "$state/password"
	"${as_server[@]}" "$bin/initdb" -D "$state/data" -U postgres --no-sync \
		--encoding=UTF8 --locale=C.UTF-8 --auth=scram-sha-256 \
		--pwfile="$state/password" >"$state/initdb.log" 2>&1 ||
		{ tail -n 20 "$state/initdb.log" >&2; fail "initdb failed; its output is above"; }
	rm "$state/password"

	# Into the directory 0700 of the socket only we come; the loopback is
	# open to every user of the machine, so only to the registry's role.
	"${as_server[@]}" tee "$state/data/pg_hba.conf" >/dev/null <<-EOF
		local all all   trust
		host  all $role 127.0.0.1/32 trust
		host  all all   127.0.0.1/32 scram-sha-256
	EOF
	{
		stage_conf "$stage"
		say "port = $pg_port"
		say "listen_addresses = '127.0.0.1'"
		if [ "$pg_host" = 127.0.0.1 ]; then
			say "unix_socket_directories = ''"
		else
			say "unix_socket_directories = '$pg_host'"
		fi
		say "shared_preload_libraries = 'ekksync'"
		say "ekksync.databases = '$role'"
		say "timezone = 'UTC'"
		say "log_timezone = 'UTC'"
	} | "${as_server[@]}" tee -a "$state/data/postgresql.conf" >/dev/null
	"${as_server[@]}" "$bin/pg_ctl" start -s -w -t 60 -D "$state/data" -l "$state/postgres.log" ||
		{ tail -n 20 "$state/postgres.log" >&2; fail "PostgreSQL did not start; its log is above"; }
}

server_alive()
{
	[ -f "$1/data/postmaster.pid" ] && choose_server_user &&
		"${as_server[@]}" "$("$PG_CONFIG" --bindir)/pg_ctl" status -D "$1/data" >/dev/null 2>&1
}

server_stop()
{
	local pg_ctl
	server_alive "$1" || return 0
	pg_ctl=$("$PG_CONFIG" --bindir)/pg_ctl
	"${as_server[@]}" "$pg_ctl" stop -s -m fast -t 30 -D "$1/data" ||
		"${as_server[@]}" "$pg_ctl" stop -s -m immediate -D "$1/data"
}

# psql on the cluster of state $1, as user $2, with the rest as arguments.
run_psql()
{
	local state=$1 user=$2 host port
	shift 2
	read -r host port <"$state/ports"
	PGPASSFILE=$state/pgpass "$("$PG_CONFIG" --bindir)/psql" -X -q -v ON_ERROR_STOP=1 \
		-h "$host" -p "$port" -U "$user" "$@"
}

# ---------------------------------------------------------------- playground

# Does a script of ours work in state $1?  Its file "owner" names the process,
# and stays when that is killed.
state_busy()
{
	[ -f "$1/owner" ] && grep -qs "dev/" "/proc/$(<"$1/owner")/cmdline"
}

# Make the state $1 ours: refused while another script works in it, and
# cleared of what a killed one left.
state_claim()
{
	! state_busy "$1" || fail "$1 is in use by process $(<"$1/owner")"
	state_remove "$1"
	mkdir -p "$1"
	say $$ >"$1/owner"
}

state_remove()
{
	server_stop "$1"
	emulator_stop "$1"
	rm -rf "$1"
}

# Cluster, emulator and registry in state $1 with $2 members: the extension
# created and attached, nothing run yet.  Sets project.
playground_start()
{
	local state=$1 members=$2
	project=demo-ekksync-$(printf %s "$state" | cksum | cut -d' ' -f1)
	emulator_start "$state"
	server_start "$state"
	run_psql "$state" postgres -d postgres -v role="$role" -v project="$project" \
		-v emulator="$emulator_host" -f "$top/dev/database.sql"
	run_psql "$state" "$role" -d "$role" -o /dev/null -v members="$members" \
		-f "$top/dev/registry.sql" -f "$top/dev/members.sql"
	run_psql "$state" postgres -d "$role" -v role="$role" -o /dev/null -f "$top/dev/extension.sql"
	run_psql "$state" "$role" -d "$role" -o "$state/attach.log" \
		-c "SELECT * FROM ekksync_attach('membership_comrade')"
}

# Shell text that points programs at the playground in state $1.
playground_env()
{
	local host port
	read -r host port <"$1/ports"
	printf 'export %s=%q\n' PGHOST "$host" PGPORT "$port" PGUSER "$role" \
		PGDATABASE "$role" FIRESTORE_EMULATOR_HOST "$emulator_host" \
		EKKSYNC_PROJECT "$project"
}
