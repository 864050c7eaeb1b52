#!/usr/bin/env bash
# What the agent costs beside a busy program: its CPU time as a share of a core
# and its peak resident memory, symbolization and shipping included.
#
#   SECONDS_LONG=60 RATE_HZ=99 benches/agent-cost.sh
#
# The program has two busy threads and is a Rust release build with line
# tables. CPU time is the agent's own (/proc/PID/stat), so a busy machine
# changes it little; memory is VmHWM.
set -euo pipefail

seconds=${SECONDS_LONG:-60}
rate=${RATE_HZ:-99}
programs=${CARGO_TARGET_DIR:-$HOME/.cache/tepui-target}/release
work=$(mktemp -d "${TMPDIR:-/tmp}/tepui-cost.XXXXXX")
children=()
cleanup() {
  local pid
  for pid in "${children[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait || true
  rm -rf "$work"
}
trap cleanup EXIT

cat >"$work/busy.rs" <<'RUST'
use std::collections::BTreeMap;
use std::hint::black_box;

fn sorted(seed: u64) -> u64 {
    let mut values: Vec<u64> = (0..2000).map(|n| n * seed % 10_007).collect();
    values.sort_unstable();
    values.iter().rev().take(10).sum()
}

fn mapped(seed: u64) -> u64 {
    let mut map = BTreeMap::new();
    for n in 0..500_u64 {
        *map.entry((n * seed % 251).to_string()).or_insert(0) += n;
    }
    map.values().sum()
}

fn work() {
    for seed in 1_u64.. {
        black_box(sorted(seed % 1009 + 1));
        black_box(mapped(seed % 1013 + 1));
    }
}

fn main() {
    let second = std::thread::spawn(work);
    work();
    second.join().unwrap();
}
RUST
rustc -O -C debuginfo=line-tables-only -o "$work/busy" "$work/busy.rs"

"$programs/collector" serve --listen 127.0.0.1:0 --data "$work/data" 2>"$work/collector.log" &
children+=("$!")
url=''
for _ in $(seq 100); do
  url=$(grep -oE 'http://127\.0\.0\.1:[0-9]+' "$work/collector.log" | head -n 1 || true)
  [[ -n $url ]] && break
  sleep 0.1
done
[[ -n $url ]] || { cat "$work/collector.log" >&2; exit 1; }

"$work/busy" &
busy=$!
children+=("$busy")
TEPUI__AGENT__CPU__RATE_HZ=$rate "$programs/agent" run --pid "$busy" --service busy \
  --collector "$url" --source perf --spool "$work/spool" 2>"$work/agent.log" &
agent=$!
children+=("$agent")

ticks() { awk '{ sub(/.*\) /, ""); print $12 + $13 }' "/proc/$1/stat"; }
sleep 5
agent_before=$(ticks "$agent")
busy_before=$(ticks "$busy")
sleep "$seconds"
agent_ticks=$(($(ticks "$agent") - agent_before))
busy_ticks=$(($(ticks "$busy") - busy_before))
peak_kib=$(awk '/^VmHWM/ { print $2 }' "/proc/$agent/status")

awk -v a="$agent_ticks" -v b="$busy_ticks" -v s="$seconds" -v hz="$(getconf CLK_TCK)" -v p="$peak_kib" -v r="$rate" 'BEGIN {
  printf "rate %d Hz, %d s, target %.2f cores\n", r, s, b / hz / s
  printf "agent CPU     %.2f %% of a core (target: at most 1 %%)\n", 100 * a / hz / s
  printf "agent VmHWM   %.1f MiB (target: at most 40 MiB)\n", p / 1024
}'
"$programs/collector" query --server "$url" --service busy --since 5m | head -n 14
