#!/usr/bin/env bash
# deps.sh: install, by apt, what building, demo and tests need and this
# machine lacks.  Silent when nothing is missing.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

missing=()

# need PACKAGE COMMAND...: the package is wanted unless the command succeeds.
need()
{
	local package=$1
	shift
	"$@" >/dev/null 2>&1 || missing+=("$package")
}

need make command -v make
need gcc command -v gcc
need libc6-dev test -e /usr/include/stdio.h
need clang command -v clang
need clang-format command -v clang-format
need pkg-config command -v pkg-config
need libcurl4-openssl-dev pkg-config --exists libcurl
need libcjson-dev pkg-config --exists libcjson
need libssl-dev pkg-config --exists libcrypto
need perl perl -MTAP::Harness -MHTTP::Tiny -MJSON::PP -e 1
need libipc-run-perl perl -MIPC::Run -e 1
need libmojolicious-perl perl -MMojolicious -e 1
need libcpanel-json-xs-perl perl -MCpanel::JSON::XS -e 1
need curl command -v curl
need default-jre-headless command -v java
need python3 /usr/bin/python3 -c 'import zoneinfo'
need python3-django /usr/bin/python3 -c 'import django'
need python3-djangorestframework /usr/bin/python3 -c 'import rest_framework'
need python3-psycopg2 /usr/bin/python3 -c 'import psycopg2'
need python3-pip /usr/bin/python3 -c 'import pip'
need python3-setuptools /usr/bin/python3 -c 'import setuptools'
need python3-wheel /usr/bin/python3 -c 'import wheel'
need chromium command -v chromium
need chromium-driver command -v chromedriver
need tzdata test -e /usr/share/zoneinfo/Africa/Casablanca

# PostgreSQL: the release of the pg_config at hand, or else Debian's.
major=$("$PG_CONFIG" --version 2>/dev/null | sed 's/^[^0-9]*\([0-9]*\).*/\1/' || true)
need "postgresql-${major:-N}" test -x "$("$PG_CONFIG" --bindir 2>/dev/null || true)/postgres"
need "postgresql-server-dev-${major:-N}" test -f "$("$PG_CONFIG" --pgxs 2>/dev/null || true)"

[ ${#missing[@]} -gt 0 ] || exit 0

command -v apt-get >/dev/null ||
	fail "missing, by the names of Debian's packages: ${missing[*]}"
if [ "$(id -u)" -ne 0 ]; then
	fail "missing: ${missing[*]}" "As root, run: make deps"
fi

say "Installing: ${missing[*]}"
apt=(apt-get -q -o DPkg::Lock::Timeout=300)
export DEBIAN_FRONTEND=noninteractive
"${apt[@]}" update
if [ -z "$major" ]; then
	major=$(apt-cache depends postgresql | sed -n 's/.*Depends: postgresql-\([0-9]*\)$/\1/p' | head -n 1)
	[ -n "$major" ] || fail "apt knows no PostgreSQL server"
	missing=("${missing[@]/%-N/-$major}")
fi

# A new server package would create and start a cluster; we have no use for it.
no_cluster=/etc/postgresql-common/createcluster.d/ekksync.conf
trap 'rm -f "$no_cluster"' EXIT
mkdir -p "${no_cluster%/*}"
say "create_main_cluster = false" >"$no_cluster"
"${apt[@]}" install -y --no-install-recommends "${missing[@]}"
