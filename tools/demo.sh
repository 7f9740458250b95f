#!/usr/bin/env bash
# From a fresh clone to a model's answer through shared memory: installs what it needs, builds a
# release, starts autoglmd on the bundled model, asks it something, measures, and stops it again.
set -euo pipefail

usage='Usage: tools/demo.sh [--keep] [PROMPT]
  --keep   leave the daemon running and say how to talk to it'

keep=
prompt='Tell me a story about a little fox.'
for argument in "$@"; do
    case "$argument" in
    --keep) keep=yes ;;
    --help) echo "$usage"; exit 0 ;;
    -*) echo "demo.sh: $argument is not an option." >&2; echo "$usage" >&2; exit 2 ;;
    *) prompt=$argument ;;
    esac
done

cd "$(dirname "$0")/.."
. tools/packages.sh

step() { printf '\n==> %s\n' "$*"; }
fail() { echo "demo.sh: $*" >&2; exit 1; }

step 'Packages'
install_packages "${build_packages[@]}"
echo 'All there.'

step 'Building a release in build/release'
build_log=$(mktemp)
if ! { cmake --preset release && cmake --build --preset release; } >"$build_log" 2>&1; then
    tail -n 40 "$build_log" >&2
    rm -f "$build_log"
    fail 'the build failed; its last lines are above.'
fi
rm -f "$build_log"
autoglm=build/release/tools/autoglm
autoglmd=build/release/daemon/autoglmd
"$autoglmd" --version

runtime=$(mktemp -d "${XDG_RUNTIME_DIR:-/tmp}/autoglm-demo-XXXXXX")
export AUTOGLM_SOCKET=$runtime/socket
daemon=
stop_daemon() {
    if [ -n "$daemon" ]; then
        kill "$daemon" 2>/dev/null || true
        wait "$daemon" 2>/dev/null || true
    fi
    rm -rf "$runtime"
}
trap stop_daemon EXIT

step "Starting autoglmd on models/story-glm"
instance=demo-$$
if [ -n "$keep" ]; then
    setsid "$autoglmd" --model story-glm=models/story-glm --socket "$AUTOGLM_SOCKET" \
        --instance "$instance" >"$runtime/log" 2>&1 </dev/null &
else
    "$autoglmd" --model story-glm=models/story-glm --socket "$AUTOGLM_SOCKET" \
        --instance "$instance" >"$runtime/log" 2>&1 </dev/null &
fi
daemon=$!
for _ in $(seq 200); do
    [ -S "$AUTOGLM_SOCKET" ] && break
    kill -0 "$daemon" 2>/dev/null || { cat "$runtime/log" >&2; fail 'autoglmd ended before it served; its log is above.'; }
    sleep 0.05
done
[ -S "$AUTOGLM_SOCKET" ] || { cat "$runtime/log" >&2; fail 'autoglmd did not open its socket within ten seconds; its log is above.'; }
cat "$runtime/log"

step "Asking through shared memory: $prompt"
"$autoglm" run --stats -t 0.7 --top-p 0.9 --seed 7 -n 200 "$prompt"

step 'Dispatch: submit to first event, with an echo model, both sides spinning (microseconds)'
if [ "$(nproc)" -ge 2 ]; then
    "$autoglm" bench dispatch --mode spin --blocks 7 --trips 1000
else
    echo 'Left out: it needs two processors.'
fi

if [ -n "$keep" ]; then
    trap - EXIT
    step 'The daemon goes on running'
    cat <<EOF
Talk to it:    $autoglm chat --socket $AUTOGLM_SOCKET
One question:  $autoglm run --socket $AUTOGLM_SOCKET 'What colour is the sky?'
Its state:     $autoglm status --socket $AUTOGLM_SOCKET
Its log:       $runtime/log
Stop it:       kill $daemon && rm -r $runtime
EOF
else
    step 'Stopping'
    kill "$daemon"
    wait "$daemon" || fail "autoglmd ended with status $?; see above."
    daemon=
    [ ! -e "$AUTOGLM_SOCKET" ] && [ ! -e "/dev/shm/autoglm.$instance" ] || fail 'the daemon left something behind.'
    echo 'Stopped; nothing is left but the build in build/release.'
fi
