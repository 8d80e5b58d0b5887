#!/usr/bin/env bash
# Installs Spark, and lets it read predictions and write candidates. JDBC speaks TCP alone: where the server has a unix socket only, as
# the private one of `make examples`, socat stands between.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
ROOT=$(cd "$HERE/../.." && pwd -P)
source "$HERE/../skip.sh"
source "$ROOT/scripts/env.sh"

jar=/usr/share/java/postgresql.jar
packages=()
have java || packages+=(default-jre-headless)
[ -e "$jar" ] || packages+=(libpostgresql-jdbc-java)
have socat || packages+=(socat)
if [ ${#packages[@]} -gt 0 ]; then
    have apt-get && { [ "$(id -u)" -eq 0 ] || have sudo; } || left_out "it needs ${packages[*]}"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends "${packages[@]}" >/dev/null 2>&1 ||
        { as_root apt-get -q update && as_root env DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends "${packages[@]}"; } >/dev/null || left_out "apt-get could not install ${packages[*]}"
fi
java=$(java -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p')
[ "${java:-0}" -ge 17 ] || left_out "Spark 4 needs Java 17, and this is ${java:-none}"
"$ROOT/scripts/venv.sh" "$ROOT/target/examples/spark" "$HERE/requirements.txt"
psql -X -q -v root="$ROOT" -f "$HERE/job.sql"
host=${PGHOST:-localhost} port=${PGPORT:-5432}
if [[ $host == /* ]]; then
    port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    socat "TCP-LISTEN:$port,bind=127.0.0.1,fork,reuseaddr" "UNIX-CONNECT:$host/.s.PGSQL.${PGPORT:-5432}" &
    trap 'kill '$! EXIT
    host=127.0.0.1
    sleep 1
fi
"$ROOT/target/examples/spark/bin/python" "$HERE/recommend.py" "jdbc:postgresql://$host:$port/$PGDATABASE" "$PGUSER" "$jar"
psql -X -q -f "$HERE/check.sql"
