#!/usr/bin/env bash
# The stable forms of the command line, against the bundled model.
set -euo pipefail
autoglmd=$1 autoglm=$2 root=$3
work=$(mktemp -d)
daemon=
trap 'kill $daemon 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$work"' EXIT
model=$root/models/story-glm

fail() { echo "test_command_line: $*" >&2; exit 1; }
same() { [ "$1" = "$2" ] || fail "$3: expected '$1', got '$2'"; }
# refuses WHAT STATUS WORDS COMMAND...: the command fails so, and its message has these words.
refuses() {
    local what=$1 expected=$2 words=$3 status=0
    shift 3
    "$@" >"$work/out" 2>"$work/err" </dev/null || status=$?
    same "$expected" "$status" "$what: exit status"
    grep -qF -- "$words" "$work/err" || { cat "$work/err" >&2; fail "$what: the message lacks '$words'"; }
}

# Without a daemon.
refuses 'no daemon' 1 "$work/none" "$autoglm" status --socket "$work/none"
refuses 'no command' 2 Usage "$autoglm"
refuses 'wrong command' 2 'speak is not a command' "$autoglm" speak
refuses 'wrong option' 2 -- "$autoglm" run --loud
refuses 'wrong number' 2 '-n x' "$autoglm" run -n x hello
refuses 'a sign amid spaces' 2 '--seed' "$autoglm" run --seed ' -5' hello
refuses 'a letter amid others' 2 'run: -x is not an option' "$autoglm" run -xy hello
refuses 'a value too many' 2 'takes no value' "$autoglm" run --stats=3 hello
refuses 'wrong option of tokenize' 2 'tokenize: --loud is not an option' "$autoglm" tokenize --loud
refuses 'a socket alone' 2 'a command must follow' "$autoglm" --socket "$work/none"
refuses 'socket with =' 1 'does autoglmd run' "$autoglm" --socket="$work/none" status
"$autoglm" --socket "$work/none" bench dispatch --help | grep -q 'bench dispatch' ||
    fail 'bench does not take a socket in front'
for words in --help --version 'bench --help'; do
    # shellcheck disable=SC2086
    if "$autoglm" $words >/dev/full 2>"$work/err"; then fail "$words: a full disk goes unnoticed"; fi
    grep -q 'cannot write' "$work/err" || fail "$words: nothing is said about a full disk"
done
"$autoglm" --help | grep -q tokenize
refuses 'a group that is not there' 2 'allow_groups: "no-such-group": there is none of that name' \
    "$autoglmd" --model "x=$work/none" --socket "$work/socket" --allow-groups no-such-group
"$autoglm" --version | grep -q '^autoglm [0-9]'

# tokenize, to ids and back.
text='Once upon a time, there was a fox. <|user|> 你好 👍'
ids=$(printf %s "$text" | "$autoglm" tokenize --tokenizer "$model")
same "$text" "$(printf %s "$ids" | "$autoglm" tokenize --tokenizer "$model" --decode)" 'round trip'
printf %s "$ids" | python3 -c 'import json,sys; ids = json.load(sys.stdin); assert ids and max(ids) < 4096, ids'
chat=$(printf '[{"role":"user","content":"<|user|>"}]' | "$autoglm" tokenize --tokenizer "$model" --chat)
special=$(python3 - "$chat" "$model" <<'P'
import json, sys
ids = json.loads(sys.argv[1])
added = {t["content"]: t["id"] for t in json.load(open(sys.argv[2] + "/tokenizer.json"))["added_tokens"]}
assert ids[0] == added["[gMASK]"] and ids[1] == added["<sop>"] and ids[2] == added["<|user|>"], ids
assert ids[-1] == added["<|assistant|>"] and ids.count(added["<|user|>"]) == 1, ids
print("plain")
P
)
same plain "$special" 'user text never becomes a special token'
refuses 'no tokenizer' 1 "$work" "$autoglm" tokenize --tokenizer "$work"

# perplexity, without a daemon and with the installed library.
refuses 'no model of perplexity' 2 '--model PATH is missing' "$autoglm" perplexity
refuses 'too short a text' 1 'the text has 0 tokens, a window 512' "$autoglm" perplexity --model "$model"
story='Once upon a time there was a little girl. She liked to play with her mom. One day they went to the park. '
printf '%s' "$story$story$story" | "$autoglm" perplexity --model "$model" --window 32 --json 2>"$work/err" | python3 -c '
import json, sys
report = json.load(sys.stdin)
assert report["windows"] >= 1 and 1 < report["perplexity"] < 4096, report'
grep -q 'window 1 of' "$work/err" || fail 'perplexity does not say how it goes'

# The daemon, in the foreground and without a configuration file.
refuses 'no model' 2 model "$autoglmd" --socket "$work/socket"
refuses 'no such model' 1 "$work/nothing" "$autoglmd" --model "a=$work/nothing" --socket "$work/socket"
refuses 'wrong flag' 2 -- "$autoglmd" --sokcet "$work/socket"
export AUTOGLM_SOCKET=$work/socket
"$autoglmd" --model story-glm="$model" --model echo=echo: --socket "$AUTOGLM_SOCKET" \
    --instance "cli-$$" --cache-type f32 2>"$work/log" &
daemon=$!
for _ in $(seq 400); do [ -S "$AUTOGLM_SOCKET" ] && break; sleep 0.05; done

# run by ids, held against the reference that transformers computed in float64.
python3 - "$model/reference.json" "$autoglm" <<'P'
import json, subprocess, sys
reference = json.load(open(sys.argv[1]))
held = 0
for case in reference["cases"]:
    out = subprocess.run([sys.argv[2], "run", "--model", "story-glm", "--ids",
                          ",".join(map(str, case["prompt_ids"])), "-n", str(len(case["ids"])), "-t", "0",
                          "--ignore-eos", "--output", "ids"], check=True, capture_output=True, text=True).stdout
    ids = [int(i) for i in out.strip().split(",")]
    assert len(ids) == len(case["ids"]), (len(ids), len(case["ids"]))
    for step, (ours, theirs, margin) in enumerate(zip(ids, case["ids"], case["margins"])):
        if margin < 1e-3:  # too close to call in float32: what follows may differ
            break
        assert ours == theirs, f"step {step}: {ours}, reference {theirs}, margin {margin}"
        held += 1
assert held > 100, held
print(f"{held} greedy ids as in the reference")
P

same "$(printf '7,8,9,7,8')" "$("$autoglm" run --model echo --ids 7,8,9 -n 5 --output ids)" 'echo'
"$autoglm" run --model echo --ids 7 -n 2 --output json | python3 -c '
import json, sys
answer = json.load(sys.stdin)
assert answer["ids"] == [7, 7] and answer["reason"] == "length", answer'
first=$("$autoglm" run -t 0.8 --seed 5 -n 60 'Tell me a story about a cat.')
same "$first" "$("$autoglm" --socket "$AUTOGLM_SOCKET" run -t 0.8 --seed 5 -n 60 'Tell me a story about a cat.')" 'same seed'
[ "$first" != "$("$autoglm" run -t 0.8 --seed 6 -n 60 'Tell me a story about a cat.')" ] || fail 'the seed changes nothing'
same "$first" "$(printf 'Tell me a story about a cat.' | "$autoglm" run -t 0.8 --seed 5 -n 60)" 'prompt from stdin'
[ ${#first} -gt 40 ] || fail "the answer is too short: $first"
"$autoglm" run --stats -n 20 Hello 2>&1 >/dev/null | grep -q 'share of memory bandwidth'
# What nobody can read is not computed further, and is said; Ctrl-C cancels and ends as such.
for form in text ids json; do
    status=0
    "$autoglm" run --output "$form" -n 20 Hello 2>"$work/err" >/dev/full || status=$?
    same 1 "$status" "a full disk, $form: exit status"
    grep -q 'cannot write' "$work/err" || fail "a full disk, $form: nothing is said"
done
if "$autoglm" status >/dev/full 2>"$work/err"; then fail 'status: a full disk goes unnoticed'; fi
"$autoglm" run -n 900 --ignore-eos Hello | head -c 10 >"$work/out" || true
same 10 "$(wc -c <"$work/out")" 'a pipe that closes early'
python3 - "$autoglm" <<'P'
import os, signal, subprocess, sys
command = [sys.argv[1], "run", "--model", "story-glm", "--ids", "7", "-n", "1900", "--ignore-eos",
           "--output", "ids"]
default = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
run = subprocess.Popen(command, stdout=subprocess.PIPE, preexec_fn=default)
out = os.read(run.stdout.fileno(), 1)  # the answer has begun
run.send_signal(signal.SIGINT)
out += run.communicate(timeout=20)[0]
assert run.returncode == -signal.SIGINT, run.returncode
assert out.endswith(b"\n") and len(out.split(b",")) < 500, (len(out), out[-20:])
P
refuses 'empty prompt' 1 'the prompt is empty' "$autoglm" run --raw ''
refuses 'empty ids' 1 'the prompt is empty' "$autoglm" run --ids ''
refuses 'wrong ids' 2 '--ids' "$autoglm" run --ids 1,x
refuses 'wrong model' 1 story-glm "$autoglm" run --model other Hello
refuses 'id out of range' 1 'the ids below 1910' "$autoglm" run --ids 99999999 --output ids
refuses 'prompt too long' 1 '5000 tokens of prompt, model story-glm holds 1024' "$autoglm" run --ids "$(seq -s, 5000 | sed 's/[0-9]*/1/g')" --output ids
refuses 'no tokenizer' 1 echo "$autoglm" run --model echo Hello

# A conversation keeps its sequence: the second turn computes only its own tokens.
printf 'My name is Tom.\nWhat is my name?\n/new\nHello!\n' | "$autoglm" chat --stats -n 40 >"$work/chat" 2>"$work/stats"
same 3 "$(grep -c 'generated tokens' "$work/stats")" 'three turns'
same 1 "$(grep -c 'from the cache' "$work/stats")" 'one of them continued'

"$autoglm" status | grep -q 'model story-glm (GlmForCausalLM)'
"$autoglm" status --json | python3 -c '
import json, sys
status = json.load(sys.stdin)
assert status["state"] == "serving" and len(status["models"]) == 2, status
assert status["models"][0]["blocks_free"] == status["models"][0]["blocks"], status'
"$autoglm" status --instance "cli-$$" | grep -q 'instance cli-'

# bench dispatch: options that make no sense, figures that do, and an end without a trace.
refuses 'wrong way of waiting' 2 '--mode spin,fast: must be spin' "$autoglm" bench dispatch --mode spin,fast
refuses 'wrong list' 2 '--sessions 1,,2: must be a list' "$autoglm" bench dispatch --sessions 1,,2
refuses 'idle sessions beyond count' 2 '--idle 99999' "$autoglm" bench dispatch --idle 99999
refuses 'no prompt' 2 '--prompt 0' "$autoglm" bench dispatch --prompt 0
refuses 'too few trips' 2 '--trips 3' "$autoglm" bench dispatch --trips 3
refuses 'too many samples' 2 'at most 2000000' "$autoglm" bench dispatch --trips 1000000 --blocks 100
refuses 'the same processor' 2 '--processors 0,0' "$autoglm" bench dispatch --processors 0,0
refuses 'a model without a socket' 2 '--model names a model' "$autoglm" bench dispatch --model echo
refuses 'two set-ups of one daemon' 2 'one set-up' "$autoglm" bench dispatch --socket x --sessions 1,2
refuses 'all of a daemon' 2 '--full needs' "$autoglm" bench dispatch --socket x --full
refuses 'a folder of a daemon' 2 '--folder is' "$autoglm" bench dispatch --socket x --folder none
if [ "$(nproc)" -lt 2 ]; then
    refuses 'one processor' 1 'needs two processors' "$autoglm" bench dispatch
else
    refuses 'one processor allowed' 1 'needs two processors' taskset -c 0 "$autoglm" bench dispatch
    refuses 'no such processor' 2 'processor 1023 is not one' "$autoglm" bench dispatch --processors 0,1023
    refuses 'no such daemon' 1 "$work/none did not start" "$autoglm" bench dispatch --daemon "$work/none"
    refuses 'no such socket' 1 "$work/none" "$autoglm" bench dispatch --socket "$work/none"
    refuses 'few descriptors' 1 'enough for' bash -c "ulimit -n 512; '$autoglm' bench dispatch --idle 1000"
    "$autoglm" bench dispatch --trips 20 --blocks 1 --sessions 1,2 --idle 0,3 --prompt 1,16 --mode spin,sleep \
        --folder none --json >"$work/bench"
    "$autoglm" bench dispatch --trips 20 --blocks 1 --prompt 1 --mode adaptive --folder "$model" --unpinned \
        --json >"$work/bench2"
    python3 - "$work/bench" "$work/bench2" <<'P'
import json, sys
report = json.load(open(sys.argv[1]))
rows = report["rows"]
for row in rows:
    assert row["samples"] == 20 and row["pinned"], row
    assert row.get("model", "echo") == "echo", row
    assert row["p99_ns"] is None and row["p999_ns"] is None, row  # not enough of them
    if row["p50_ns"] is None:  # spoiled by the machine, and said to be
        assert any(row["name"] in note for note in report["notes"]), row
        continue
    assert 0 < row["p50_ns"] <= row["max_ns"] and row["ratio_to_line"] > 0, row
    assert sum(bucket["count"] for bucket in row["histogram"]) == row["samples"], row
    for below, above in zip(row["histogram"], row["histogram"][1:]):
        assert below["from_ns"] < below["to_ns"] <= above["from_ns"], row
bare = {row["name"] for row in rows if "mode" not in row}
assert bare >= {"raw cache-line exchange, PAUSE", "raw cache-line exchange, no PAUSE", "futex",
                "eventfd", "pipe", "Unix socket, SOCK_STREAM", "Unix socket, SOCK_SEQPACKET", "reading once what the other side wrote"}, bare
assert "HTTP over loopback" in bare or any("HTTP" in note for note in report["notes"]), bare
trips = [row for row in rows if row["name"] == "submit to first event"]
assert {(row["mode"], row["sessions"], row["idle"], row["prompt_tokens"]) for row in trips} == {
    (mode, sessions, idle, prompt) for mode in ("spin", "sleep") for sessions in (1, 2)
    for idle in (0, 3) for prompt in (1, 16)}, trips
names = {row["name"] for row in rows if "mode" in row}
assert names == {"submit to first event", "submit to first token", "submit to taken", "taken to published",
                 "published to seen", "agl_prompt + agl_submit, each", "agl_poll that finds an event",
                 "agl_poll that finds none"}, names
assert {entry["kind"] for entry in report["comparisons"]} == {"waiting", "kernel", "sessions", "idle", "prompt"}
assert report["bench"] == "dispatch" and report["machine"]["processors"] >= 2, report["machine"]
for phase in report["phases"]:
    lines = {"raw cache-line exchange, no PAUSE": phase["line_p50_ns"],
             "raw cache-line exchange, PAUSE": phase["line_pause_p50_ns"]}
    assert 0 < lines[phase["limit"]] == min(lines.values()), phase
    assert len(set(phase["processors"])) == 2, phase
for entry in rows + report["comparisons"]:
    assert entry["phase"] < len(report["phases"]), entry
for entry in report["comparisons"]:
    assert entry["p99_ratio"] is None, entry  # not enough of them here either
rows = json.load(open(sys.argv[2]))["rows"]
assert rows and not any(row["pinned"] for row in rows), rows
assert {row["mode"] for row in rows if "mode" in row} == {"adaptive"}, rows
assert {row["name"] for row in rows if row.get("model") == "real"} == {
    "submit to first event", "submit to first token", "the daemon's own step", "first token less the step"}, rows
P
    # Somebody else's daemon is measured as it is.
    "$autoglm" --socket "$AUTOGLM_SOCKET" bench dispatch --model story-glm --trips 20 --blocks 1 --pinned \
        --prompt 1,2000 --histogram >"$work/bench"
    grep -q '^adaptive, model story-glm, 1 session, prompts of 1 token$' "$work/bench" || fail 'no rows of the daemon'
    grep -q '; pinned: this client on .*; not the daemon$' "$work/bench" || fail 'the daemon is said to be pinned'
    grep -q 'Note: the daemon at .* is not ours' "$work/bench" || fail 'nothing is said about whose daemon it is'
    grep -q 'us .* ##' "$work/bench" || fail 'no histogram'
    grep -q 'Note: model story-glm holds 1024 tokens' "$work/bench" || fail 'nothing is said about what is left out'
    "$autoglm" --socket "$AUTOGLM_SOCKET" bench dispatch --model story-glm --trips 20 --blocks 1 --pinned --json \
        >"$work/bench"
    python3 - "$work/bench" <<'P'
import json, sys
rows = json.load(open(sys.argv[1]))["rows"]
assert {(row["sessions"], row["idle"], row["prompt_tokens"]) for row in rows if "mode" in row} == {(1, 0, 1)}, rows
for row in rows:
    assert row["pinned"] == ("mode" not in row), row  # only what is ours
P
    # However it ends, nothing of it stays: no process, no board, no folder.
    python3 - "$autoglm" <<'P'
import ctypes, glob, os, signal, subprocess, sys, time

PR_SET_CHILD_SUBREAPER = 36  # what is left behind comes to us, and no rule of sessions lets it go on
assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0

def children(pid):
    return [int(word) for word in open(f"/proc/{pid}/task/{pid}/children").read().split()]

def runs(pid):
    try:
        return open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False

def of(bench, what):
    return glob.glob(f"{what}-{bench.pid}-*")

def daemons(bench):  # by their instance
    name = f"bench-{bench.pid}-".encode()
    found = []
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            found += [path] if name in open(path, "rb").read() else []
        except OSError:
            pass
    return found

def wait_until(condition, what):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)

for number, pause in ((signal.SIGINT, 0), (signal.SIGINT, 0.7), (signal.SIGTERM, 0.5), (signal.SIGKILL, 0.6)):
    bench = subprocess.Popen([sys.argv[1], "bench", "dispatch", "--mode", "spin,sleep", "--folder", "none",
                              "--prompt", "1", "--trips", "200", "--blocks", "10000"],
                             stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                             preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    wait_until(lambda: len(daemons(bench)) >= 2, "no daemons")
    time.sleep(pause)
    ours = children(bench.pid)
    bench.send_signal(number)
    said = bench.communicate(timeout=100)[1]
    expected = 128 + number if number == signal.SIGTERM else -number  # Ctrl-C ends loops of a shell, too
    assert bench.returncode == expected and not said, (number, bench.returncode, said)
    wait_until(lambda: not any(runs(pid) for pid in ours) and not daemons(bench), f"{number}: something still runs")
    def left():
        return of(bench, "/tmp/autoglm-bench") + of(bench, "/dev/shm/autoglm.bench")
    wait_until(lambda: not left(), f"{number}: something is left")
P
fi

# A real trained model without a tokenizer file serves ids: its reference, 200 greedy ids.
stories=${AGL_SHARED_DATA:-$root/../shared/data}/stories260k-glm
if [ -r "$stories/greedy_reference.json" ]; then
    "$autoglmd" --model stories="$stories" --socket "$work/stories" --instance "cli-stories-$$" 2>"$work/log2" &
    other=$!
    for _ in $(seq 400); do [ -S "$work/stories" ] && break; sleep 0.05; done
    "$autoglm" run --socket "$work/stories" --model stories --ids 1 -n 200 -t 0 --output ids >"$work/ids"
    python3 - "$work/ids" "$stories/greedy_reference.json" <<'P'
import json, sys
ids = [int(i) for i in open(sys.argv[1]).read().split(",")]
reference = json.load(open(sys.argv[2]))["greedy_ids_from_bos"][1:]
assert len(ids) == 200 and ids == reference, (ids, reference)
print("stories260k: 200 greedy ids as in the reference")
P
    # A board whose daemon was killed says so to who reads it without connecting.
    "$autoglm" status --instance "cli-stories-$$" | grep -q 'ago$' || fail 'a living daemon is called dead'
    kill -KILL "$other"
    wait "$other" || true
    sleep 5.5
    "$autoglm" status --instance "cli-stories-$$" | grep -q 'dead, or stuck' || fail 'a dead daemon is not called so'
    rm -f "/dev/shm/autoglm.cli-stories-$$"
else
    printf '\n*** SKIPPED: shared test data not found: %s\n\n' "$stories" >&2
fi

kill "$daemon"
wait "$daemon" || fail "autoglmd ended with status $?"
daemon=
[ ! -e "$AUTOGLM_SOCKET" ] || fail 'the socket is still there'
[ ! -e "/dev/shm/autoglm.cli-$$" ] || fail 'the board is still there'
echo 'command line: all right'
