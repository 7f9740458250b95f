#!/usr/bin/env bash
# versions.sh CLIENT... -- DAEMON..., each VERSION[+WORD]=PROGRAM
#
# Every client against every daemon. Of the same major: all is answered, at the smaller of both
# minors. Of different majors: the client hears both versions and which side to update, the daemon
# names the client once in its log, and neither is the worse for it. Programs of +frozen are those in
# frozen/; +shared is linked with the shared library, which does not tell its version.
set -euo pipefail
export LC_ALL=C
work=$(mktemp -d)
daemon_pid=
client_pid=
cleanup() {
    for pid in $client_pid $daemon_pid; do kill "$pid" 2>/dev/null || true; done
    wait
    rm -rf "$work"
}
trap cleanup EXIT

fail() {
    echo "versions.sh: client $client, daemon $daemon: $*" >&2
    for file in client daemon; do
        echo "--- output of the $file" >&2
        cat "$work/$file" >&2
    done
    exit 1
}
# wait_until WHAT COMMAND...: for 30 s at the most.
wait_until() {
    local what=$1
    shift
    for _ in $(seq 1500); do
        if "$@"; then return; fi
        sleep 0.02
    done
    fail "$what does not come"
}
# says FILE LINE: one line of the program's output is or contains that, and only one.
says() {
    [ "$(grep -cF -- "$2" "$work/$1")" = 1 ] || fail "the $1 does not say once: $2"
}

version() { local v=${1%%=*}; echo "${v%%+*}"; }
label() { local v=${1%%=*}; echo "${v/+/ }"; }
program() { echo "${1#*=}"; }
is_frozen() { [[ ${1%%=*} == *+frozen ]]; }

daemon_is_there() { [ -S "$work/socket" ] || ! kill -0 "$daemon_pid" 2>/dev/null; }

start_daemon() { # DAEMON
    local arguments=("$work/socket")
    if ! is_frozen "$1"; then
        arguments=(--socket "$work/socket" --instance "$instance" --model echo=echo: --log-level debug)
    fi
    "$(program "$1")" "${arguments[@]}" >"$work/daemon" 2>&1 &
    daemon_pid=$!
    wait_until 'the socket' daemon_is_there
    [ -S "$work/socket" ] || fail 'it ends at once'
}

client_is_done() { grep -q waiting "$work/client" || ! kill -0 "$client_pid" 2>/dev/null; }

run_client() { # CLIENT DAEMON: both to their ends
    local arguments=("$work/socket")
    if ! is_frozen "$1" && ! is_frozen "$2"; then arguments+=("$instance"); fi
    "$(program "$1")" "${arguments[@]}" >"$work/client" 2>&1 &
    client_pid=$!
    wait_until 'the end of the answers' client_is_done
    kill "$daemon_pid" 2>/dev/null || true
    client_status=0
    wait "$client_pid" || client_status=$?
    daemon_status=0
    wait "$daemon_pid" || daemon_status=$?
    client_pid=
    daemon_pid=
    rm -f "$work/socket"
}

check_session() { # CLIENT DAEMON CLIENT_VERSION DAEMON_VERSION: they work together
    local smaller=$3
    if [ "${4#*.}" -lt "${3#*.}" ]; then smaller=$4; fi
    [ "$client_status $daemon_status" = '0 0' ] || fail "statuses $client_status and $daemon_status"
    if is_frozen "$1"; then
        says client "session of version $smaller: all as in 1.0; waiting"
    else
        says client 'all right; waiting'
        if [[ $1 != *+shared=* ]]; then says client "session $smaller"; fi
        if ! is_frozen "$2"; then says client 'board read'; fi
    fi
    verdict="session $smaller"
}

check_refusal() { # CLIENT DAEMON CLIENT_VERSION DAEMON_VERSION: they part, and say why
    local side="client's library" board_side=library name=library-client
    local words="the client speaks version $3, the daemon $4: update the"
    if [ "${3%.*}" -gt "${4%.*}" ]; then side=daemon board_side=daemon; fi
    [ "$client_status" = 3 ] || fail "the client's status is $client_status"
    if is_frozen "$1"; then
        says client "refused with -93 by a daemon of version $4: $words $side"
        name='client-1.0'
    else
        says client "refused with -93: the daemon refused: $words $side"
    fi
    if is_frozen "$2"; then
        [ "$daemon_status" = 3 ] || fail "the daemon's status is $daemon_status"
        says daemon "client $name speaks version $3"
    else
        [ "$daemon_status" = 0 ] || fail "the daemon's status is $daemon_status"
        says daemon "refused client \"$name\""
        says daemon "$words $side"
        if ! is_frozen "$1"; then
            grep -qE "^board refused with -93: the daemon's board has version [0-9]+, this library reads [0-9]+: update the $board_side\$" \
                "$work/client" || fail 'the board is not refused for its version'
        fi
    fi
    verdict="update the $side"
}

try() { # CLIENT DAEMON
    local client_version daemon_version
    client_version=$(version "$1")
    daemon_version=$(version "$2")
    instance=versions-$$-$((++tries))
    : >"$work/client"
    start_daemon "$2"
    run_client "$1" "$2"
    if ! is_frozen "$1" && [[ $1 != *+shared=* ]]; then says client "library $client_version"; fi
    if [ "${client_version%.*}" = "${daemon_version%.*}" ]; then
        check_session "$1" "$2" "$client_version" "$daemon_version"
    else
        check_refusal "$1" "$2" "$client_version" "$daemon_version"
    fi
}

tries=0
clients=()
while [ "$1" != -- ]; do
    clients+=("$1")
    shift
done
shift
printf '%-18s' 'client \ daemon'
for each in "$@"; do printf '%-28s' "$(label "$each")"; done
printf '\n'
for client_entry in "${clients[@]}"; do
    client=$(label "$client_entry")
    printf '%-18s' "$client"
    for daemon_entry in "$@"; do
        daemon=$(label "$daemon_entry")
        try "$client_entry" "$daemon_entry"
        printf '%-28s' "$verdict"
    done
    printf '\n'
done
