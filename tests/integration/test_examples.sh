#!/usr/bin/env bash
# The README's program and the examples compile as shown and talk to a daemon.
set -euo pipefail
autoglmd=$1 library=$2 root=$3
work=$(mktemp -d)
daemon=
trap 'kill $daemon 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$work"' EXIT

# The program in the README is examples/hello.c, to the letter.
sed -n '/^```c$/,/^```$/p' "$root/README.md" | sed '1d;$d' >"$work/readme.c"
diff "$root/examples/hello.c" "$work/readme.c"
[ "$(sed '1,/^int main/d' "$work/readme.c" | grep -c .)" -le 20 ]

sanitize=
case $(nm -D "$library") in
*__asan_*) sanitize=-fsanitize=address ;;
*__tsan_*) sanitize=-fsanitize=thread ;;
esac
for example in "$root"/examples/*.c; do
    name=$(basename "$example" .c)
    cc -std=c99 -Wall -Wextra -Wno-comma $sanitize -I"$root/client/include" "$example" "$library" \
        -Wl,-rpath,"$(dirname "$library")" -o "$work/$name"
done

export AUTOGLM_SOCKET=$work/socket
"$autoglmd" --model story-glm="$root/models/story-glm" --socket "$AUTOGLM_SOCKET" \
    --instance "examples-$$" 2>"$work/log" &
daemon=$!
for _ in $(seq 400); do [ -S "$AUTOGLM_SOCKET" ] && break; sleep 0.05; done

[ "$("$work/hello" | grep -c '^[0-9]*$')" -ge 1 ]
"$work/story" 'Hello!' | tee "$work/story.txt"
grep -q 'tokens, ' "$work/story.txt"
[ "$(wc -c <"$work/story.txt")" -gt 25 ]

kill "$daemon"
wait "$daemon"
if AUTOGLM_SOCKET=$work/none "$work/story" 2>"$work/error"; then
    echo 'an example without a daemon must fail' >&2
    exit 1
fi
grep -q "$work/none" "$work/error"
echo 'examples: all right'
