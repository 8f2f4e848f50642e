#!/usr/bin/env bash
# down.sh: end the playground of up.sh, and what a killed demo.sh or check.sh
# left running.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

for state in "$dev/demo" "$dev/check" "$dev/up"; do
	if state_busy "$state"; then
		say "Left alone: $state is in use by process $(<"$state/owner")."
	elif [ -f "$state/owner" ] || [ "$state" = "$dev/up" ]; then
		state_remove "$state"
	fi
done
rm -f "$dev/env"
say "The playground is gone."
