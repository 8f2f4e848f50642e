#!/usr/bin/env bash
# up.sh: a playground that stays: PostgreSQL with the registry (MEMBERS
# members), the extension attached, and a Firestore emulator.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

members=${MEMBERS:-2200}
[[ $members =~ ^[0-9]+$ ]] || fail "MEMBERS must be a number"
state=$dev/up

howto()
{
	say "  . .dev/env; psql           and then, for example: SELECT * FROM ekksync_run();"
	say "  make down                  ends it"
}

if [ -f "$dev/env" ] && server_alive "$state" && emulator_alive "$state"; then
	say "The playground is up."
	howto
	exit 0
fi

emulator_jar >/dev/null
"$top/dev/deps.sh" playground
build
state_claim "$state"
trap '[ -f "$dev/env" ] || state_remove "$state"' EXIT
rm -f "$dev/env"
playground_start "$state" "$members"
rm "$state/owner"
playground_env "$state" >"$dev/env"
say "The playground is up: $members members, attached, nothing run yet."
howto
