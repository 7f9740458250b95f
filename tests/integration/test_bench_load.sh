#!/usr/bin/env bash
# autoglm bench engine and bench kernels as they are called: refusals, figures, an end by a signal.
set -euo pipefail
autoglm=$1 root=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
model=$root/models/story-glm
tiny=(--rounds 2 --ms 1 --buffer 8 --threads 1,2 --json)

fail() { echo "test_bench_load: $*" >&2; exit 1; }
same() { [ "$1" = "$2" ] || fail "$3: expected '$1', got '$2'"; }
# refuses WHAT STATUS WORDS COMMAND...: the command fails so, and its message has these words.
refuses() {
    local what=$1 expected=$2 words=$3 status=0
    shift 3
    "$@" >"$work/out" 2>"$work/err" </dev/null || status=$?
    same "$expected" "$status" "$what: exit status"
    grep -qF -- "$words" "$work/err" || { cat "$work/err" >&2; fail "$what: the message lacks '$words'"; }
}

"$autoglm" bench --help | grep -q '^  engine ' || fail 'bench --help does not name engine'
"$autoglm" bench engine --help | grep -q 'edge-1.5b, edge-4b' || fail 'the shapes are not named'
"$autoglm" bench kernels --help | grep -q 'q8_halves' || fail 'the types are not named'
refuses 'wrong shape' 2 '--shape tiny: must be one of edge-1.5b' "$autoglm" bench engine --shape tiny
refuses 'wrong type' 2 '--quant q3: must be one of f32' "$autoglm" bench engine --quant q3
refuses 'wrong list' 2 '--batch 1,,2: must be a list' "$autoglm" bench engine --batch 1,,2
refuses 'wrong instructions' 2 '--isa mmx' "$autoglm" bench kernels --isa mmx
refuses 'no model' 1 "$work/none" "$autoglm" bench engine --model "$work/none"
refuses 'no arithmetic' 1 '--model echo:' "$autoglm" bench engine --model echo:
refuses 'nothing that fits' 1 '--context' "$autoglm" bench engine --shape story --context 1024 --prompt 0 --buffer 1
# Memory is refused with the figures, before it is taken.
refuses 'a large buffer' 1 '--buffer: the buffer that is read would take 1099.51 GB' \
    "$autoglm" bench engine --shape story --buffer 1048576
refuses 'a large cache' 1 '--batch, --context, --prompt: the cache and the activations would take' \
    "$autoglm" bench engine --shape smollm2-135m --quant q4 --batch 1024 --context 8191 --prompt 0 --cache f32 --buffer 1

"$autoglm" bench engine --shape story --quant q4 --batch 1,3 --context 0,40,1024 --prompt 20 "${tiny[@]}" >"$work/story"
"$autoglm" bench engine --model "$model" --batch 2 --context 8 --prompt 0 "${tiny[@]}" >"$work/model"
for type in f32 f16 bf16 q8 q8_min q8_super q8_halves q4 q4_min q4_super; do
    "$autoglm" bench engine --shape story --quant "$type" --batch 1 --context 0 --prompt 0 "${tiny[@]}" >"$work/type-$type"
done
"$autoglm" bench kernels --shape story --rows 1,20 --context 0,30,1024 "${tiny[@]}" >"$work/kernels"
"$autoglm" bench engine --shape story --isa plain --batch 1 --context 0 --prompt 0 "${tiny[@]}" >"$work/plain"
python3 - "$work" <<'P'
import json, sys
def read(name):
    report = json.load(open(f"{sys.argv[1]}/{name}"))
    assert [limits["threads"] for limits in report["limits"]] == [1, 2], report["limits"]
    for limits in report["limits"]:
        assert limits["read_bytes_per_s"] > 0 and limits["f32_macs_per_s"] > 0, limits
        assert {"int8_macs_per_s", "amx_macs_per_s"} <= set(limits), limits
        assert (limits["amx_macs_per_s"] is not None) == (report["isa"] == "amx"), report
    for row in report["rows"]:
        assert row["ms"] > 0 and row["bytes"] > 0, row
        assert abs(row["bytes_per_s"] * row["ms"] / 1e3 / row["bytes"] - 1) < 1e-9, row
        assert row["share_of_read"] > 0, row
        if row["macs"]:
            assert row["macs_per_s"] > 0 and row["share_of_peak"] > 0, row
            assert row["peak"] in ("f32", "int8", "amx"), row
        else:
            assert row["peak"] is row["share_of_peak"] is row["macs_per_s"] is None, row
    assert report["machine"]["processor"] and report["machine"]["processors"] > 0, report
    return report

report = read("story")
assert report["bench"] == "engine" and report["rounds"] == 2, report
assert report["model"]["name"] == "story" and report["model"]["random"], report["model"]
key = lambda row: (row["threads"], row["what"], row["batch"], row["context"], row["tokens"])
assert [key(row) for row in report["rows"]] == [row for threads in (1, 2) for row in (
    (threads, "decode", 1, 0, 1), (threads, "decode", 3, 0, 3), (threads, "decode", 1, 40, 1),
    (threads, "decode", 3, 40, 3), (threads, "prompt", 1, 0, 20))], report["rows"]
# 18 bytes for 32 weights, and vectors of f32; a position has 5 layers of 2 heads of 64, twice, in f16.
weights = (5 * (2 * 256 * 256 + 2 * 128 * 256 + 3 * 512 * 256) + 1920 * 256) // 32 * 18
weights += 4 * (5 * (2 * 256 + 256 + 2 * 128) + 256)
for row in report["rows"]:
    positions = row["batch"] * (row["context"] + row["tokens"] // row["batch"])
    assert row["weight_bytes"] == weights, row
    assert row["cache_bytes"] == positions * 5 * 2 * 2 * 64 * 2, row
    assert row["bytes"] == row["weight_bytes"] + row["cache_bytes"], row
    assert abs(row["tokens_per_s"] * row["ms"] / 1e3 / row["tokens"] - 1) < 1e-9, row
assert any("1024 left out: the model holds 1024 tokens" in note for note in report["notes"]), report["notes"]

report = read("model")
assert not report["model"]["random"] and report["model"]["type"] == "bf16", report["model"]
assert len(report["rows"]) == 2 and all(row["peak"] == "f32" for row in report["rows"]), report["rows"]

sizes = {}
for kind in ("f32", "f16", "bf16", "q8", "q8_min", "q8_super", "q8_halves", "q4", "q4_min", "q4_super"):
    report = read("type-" + kind)
    assert report["model"]["type"] == report["model"]["head_type"] == kind, report["model"]
    sizes[kind] = report["model"]["bytes_per_token"]
assert sizes["f32"] > sizes["f16"] == sizes["bf16"] > sizes["q8_min"] > sizes["q8"] > sizes["q4_min"] > sizes["q4"], sizes

report = read("kernels")
assert report["bench"] == "kernels" and report["shape"] == "story", report
rows = {(row["threads"], row["kernel"], row.get("type"), row["rows"], row.get("context")) for row in report["rows"]}
assert len(rows) == len(report["rows"]), report["rows"]
assert rows == {(threads, kernel, kind, count, None) for threads in (1, 2) for kind in sizes for count in (1, 20)
                for kernel in ("q, k, v", "o", "gate, up", "down", "head", "embed")} | {
    (threads, kernel, None, count, None) for threads in (1, 2) for count in (1, 20)
    for kernel in ("norm, 16 outputs", "gated silu", "select rows", "rotary, store")} | {
    (threads, "attention", None, count, context) for threads in (1, 2) for count in (1, 20) for context in (0, 30)}, rows
for row in report["rows"]:
    if row["kernel"] == "down":  # 512 columns, 256 rows
        assert row["macs"] == row["rows"] * 512 * 256, row
    if row["kernel"] == "attention":  # one row of each sequence, or one sequence's prompt
        assert row["sequences"] == (1 if row["rows"] == 20 else row["rows"]), row
        assert row["bytes"] == row["sequences"] * (row["context"] + row["rows"] // row["sequences"]) * 2 * 2 * 64 * 2, row

report = read("plain")
assert report["isa"] == "plain" and report["rows"][0]["peak"] == "f32", report
P

# The table names processor, threads and instructions.
"$autoglm" bench engine --shape story --isa plain --batch 1 --context 0 --prompt 0 --rounds 1 --ms 1 --buffer 8 \
    --threads 2 >"$work/out"
grep -q ', 2 threads, plain: reads .* GB/s, f32 .* GMAC/s' "$work/out" || fail 'the table does not name what it ran on'
grep -q '^decode, batch 1, context 0 .* %' "$work/out" || fail 'the table has no row'

# A signal ends it, by that signal or with its status, without half of a result.
python3 - "$autoglm" <<'P'
import signal, subprocess, sys
for command in ("engine", "kernels"):
    for number, status in ((signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 128 + signal.SIGTERM)):
        bench = subprocess.Popen([sys.argv[1], "bench", command, "--shape", "story", "--rounds", "1000", "--ms", "500",
                                  "--buffer", "8"], stdout=subprocess.PIPE, text=True,
                                 preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
        for _ in range(2):
            bench.stdout.readline()
        bench.send_signal(number)
        rest, _ = bench.communicate(timeout=120)
        assert bench.returncode == status, (command, number, bench.returncode)
        assert " %" not in rest, rest
P
echo "test_bench_load: ok"
