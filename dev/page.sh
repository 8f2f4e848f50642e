#!/usr/bin/env bash
# page.sh: install the Firebase SDK for the tests with a page, by npm, into
# .dev/page, as t/page/package-lock.json says.  Silent when it is there.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

dir=$dev/page
lock=$top/t/page/package-lock.json
! cmp -s "$lock" "$dir/installed" || exit 0
command -v npm >/dev/null || fail "there is no npm; run: make deps"
rm -rf "$dir"
mkdir -p "$dir"
cp "$top/t/page/package.json" "$lock" "$dir/"
(cd "$dir" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error) ||
	fail "npm could not install the Firebase SDK, which t/130_page.pl needs"
cp "$lock" "$dir/installed"
