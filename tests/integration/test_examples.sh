#!/usr/bin/env bash
# test_examples.sh AUTOGLMD LIBRARY AUTOGLM ROOT
#
# The README's program and the examples compile as shown, talk to a daemon, and answer what is right.
set -euo pipefail
autoglmd=$1 library=$2 autoglm=$3 root=$4
work=$(mktemp -d)
daemons=()
trap 'kill "${daemons[@]}" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$work"' EXIT

fail() { echo "test_examples: $*" >&2; exit 1; }
# example NAME ARGUMENT...: runs it; its output is in $work/NAME.txt.
example() {
    local name=$1 status=0
    shift
    timeout 200 "$work/$name" "$@" >"$work/$name.txt" 2>"$work/$name.error" || status=$?
    [ "$status" -eq 0 ] || { cat "$work/$name.txt" "$work/$name.error" >&2; fail "$name: status $status"; }
}
# right NAME WHAT AWK_PROGRAM: the program, run over the output of the example, finds it right.
right() {
    awk "$3" "$work/$1.txt" || { cat "$work/$1.txt" >&2; fail "$1: $2"; }
}
# serve NAME FLAG...: starts a daemon and waits for its socket, $work/NAME.sock.
serve() {
    local name=$1
    shift
    "$autoglmd" --socket "$work/$name.sock" --instance "examples-$$-$name" "$@" 2>"$work/$name.log" &
    daemons+=($!)
    for _ in $(seq 400); do [ -S "$work/$name.sock" ] && return; sleep 0.05; done
    cat "$work/$name.log" >&2
    fail "daemon $name does not start"
}

# The program in the README is examples/hello.c, to the letter.
sed -n '/^```c$/,/^```$/p' "$root/README.md" | sed '1d;$d' >"$work/readme.c"
diff "$root/examples/hello.c" "$work/readme.c"
[ "$(sed '1,/^int main/d' "$work/readme.c" | grep -c .)" -le 20 ]

# Each compiles as C99 without a warning.
sanitize=
case $(nm -D "$library") in
*__asan_*) sanitize=-fsanitize=address ;;
*__tsan_*) sanitize=-fsanitize=thread ;;
esac
names=()
for source in "$root"/examples/*.c; do
    name=$(basename "$source" .c)
    names+=("$name")
    libraries=()
    if grep -q '<liburing.h>' "$source"; then libraries=(-luring); fi
    # shellcheck disable=SC2086
    cc -std=c99 -pedantic -Wall -Wextra -Werror -Wno-comma $sanitize -I"$root/client/include" "$source" \
        "$library" "${libraries[@]}" -Wl,-rpath,"$(dirname "$library")" -o "$work/$name"
done

# Without a daemon each says so, with the socket that it tried.
for name in "${names[@]}"; do
    status=0
    AUTOGLM_SOCKET=$work/none timeout 200 "$work/$name" >"$work/out" 2>"$work/error" </dev/null || status=$?
    [ "$status" -eq 1 ] && grep -q "cannot connect to $work/none: No such file" "$work/error" || {
        cat "$work/out" "$work/error" >&2
        fail "$name without a daemon: status $status"
    }
done

# Examples of text, against the bundled model. All of it is greedy, so the command line's answers to
# the same questions are the same.
serve story --model story-glm="$root/models/story-glm"
export AUTOGLM_SOCKET=$work/story.sock
fox='Tell me a story about a little fox.'

example hello
right hello 'no token ids' '!/^[0-9]+$/ || $1 >= 1920 { exit bad = 1 } END { exit bad || NR < 1 }'

example story 'Hello!'
right story 'no answer' '/^\([0-9]+ tokens, (stop|length)\)$/ { ended = 1 } END { exit !ended }'
[ "$(wc -c <"$work/story.txt")" -gt 25 ] || fail 'story: hardly any text'

example call "$fox" 'Hello!'
for question in "$fox" 'Hello!'; do "$autoglm" run -t 0 -n 200 "$question"; done >"$work/expected"
grep . "$work/call.txt" | diff "$work/expected" - || fail 'call: other answers than autoglm run gives'
[ "$(wc -c <"$work/expected")" -gt 300 ] || fail 'call: hardly any text'

# What the model has no room for is refused, and the example says so.
status=0
timeout 200 "$work/call" "$(yes 'Hello there!' | head -n 1000)" >"$work/out" 2>"$work/error" || status=$?
[ "$status" -eq 1 ] && grep -q '^no answer: Longer than' "$work/error" ||
    fail "call: a question that is too long: status $status, $(cat "$work/error")"

turns='Hello!\nTell me a story.\nWhy?\n'
printf "$turns"'\nHello!\n' | example conversation
printf "$turns" | "$autoglm" chat -t 0 >"$work/expected"
grep -v '^\[' "$work/conversation.txt" | grep . | sed '$d' | diff "$work/expected" - ||
    fail 'conversation: other answers than autoglm chat gives'
# The history is not computed again: at most the last token of each answer is.
right conversation 'wrong figures' '
    /^\[/ { sub(/\[/, ""); turn++; prompt[turn] = $1; cached[turn] = $5; answer[turn] = $10 }
    END {
        before[2] = prompt[1] + answer[1]
        before[3] = prompt[2] + answer[2]
        for (turn = 2; turn <= 3; turn++)
            if (prompt[turn] <= before[turn] || cached[turn] > before[turn] || cached[turn] < before[turn] - 1)
                exit 1
        exit !(cached[1] == 0 && cached[4] == 0 && prompt[1] > 0 && prompt[4] == prompt[1])
    }'
# More conversations than a connection may keep: each must be forgotten.
for _ in $(seq 20); do printf 'Hello!\n\n'; done | example conversation
right conversation 'not as many answers' '/^\[/ { answers++ } END { exit answers != 20 }'

example deadline
right deadline 'wrong ends' '
    /^first token within 1 ms: deadline, 0 tokens;/ { late++ }
    /^everything within 30 ms: deadline, / && $6 < 1000 { cut++ }
    /^interrupted after 20 ms: cancelled, / && $6 < 1000 { cancelled++ }
    /^everything within a minute: length, 20 tokens;/ { complete++ }
    END { exit !(NR == 4 && late == 1 && cut == 1 && cancelled == 1 && complete == 1) }'

# Examples of ids, against the echo model, which answers with the prompt. Two requests run, two wait,
# the rest are refused, by the limit of all or by that of one user, and must come again.
serve echo --model echo=echo: --running-max 2 --queue-requests 2
serve budget --model echo=echo: --running-max 2 --user-queued-requests 2
for socket in budget echo; do
    export AUTOGLM_SOCKET=$work/$socket.sock
    example many 60
    right many 'wrong answers' '
        /^job / {
            number = $2 + 0
            if (seen[number]++ || $3 != (number % 2 ? 5 : 150) || $8 != number + 1 || $9 != "(length)")
                exit wrong = 1
            if (number < last) overtaken++
            last = number
        }
        /^60 answers; / { full = $3; refused = $7 }
        END { exit wrong || NR != 61 || !overtaken || full < 1 || refused < 1 }'
done

serve plain --model echo=echo:
export AUTOGLM_SOCKET=$work/plain.sock
for name in epoll uring; do
    example $name
    right $name 'wrong tokens' '
        /^tick / { tick[$4] = $2 + 0; ticks++ }
        /^request / {
            request = $2 + 0
            if (!(request in tick) || $4 != tokens[request]++ || $6 != ($4 % 2 ? 403 : tick[request]))
                exit wrong = 1
            all++
        }
        /^5 answers, woken / { woken = $4 }
        END { exit wrong || ticks != 5 || all != 30 || woken < 5 }'
    # While the other model computes, the loop sleeps: no more wake-ups than ticks and events.
    AUTOGLM_SOCKET=$work/story.sock example $name
    right $name 'woken for nothing' '/^5 answers, woken / { woken = $4 } END { exit woken < 5 || woken > 100 }'
done

kill "${daemons[@]}"
wait "${daemons[@]}" || fail 'a daemon did not stop as it should'
daemons=()
echo "examples: ${names[*]}: all right"
