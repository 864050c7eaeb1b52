#!/usr/bin/env bash
# The demonstration: a real service spins, Tepui samples, stores, draws, flags
# and reports it; then the repaired service runs under load and nothing is
# reported. `make demo` builds the two programs first and calls this.
#
#   KEEP=1              leave everything running at the end, and say how to stop it
#   SOAK=1              watch the repaired service for five minutes instead of one
#   REPAIRED_SECONDS=N  watch it for N seconds
#   DEMO_OUT=DIR        where the flame graphs go
#
# Exit code 0 only if everything was seen.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
programs=${CARGO_TARGET_DIR:-$HOME/.cache/tepui-target}/release
out=${DEMO_OUT:-$HOME/.cache/tepui-demo}
keep=${KEEP:-}
soak=${SOAK:-}
repaired_seconds=${REPAIRED_SECONDS:-$([[ -n $soak ]] && echo 300 || echo 60)}
PATH=$PATH:/usr/local/go/bin
readonly here programs out keep repaired_seconds

# How long a spin may go unflagged, counted from the start of the service.
readonly flag_seconds=90
# What the demonstration changes so as not to last six minutes.
readonly detect=(--detect-step 10s --detect-for 30s)
readonly endpoint_every=20s

bold='' plain=''
if [[ -t 1 ]]; then bold=$'\e[1m' plain=$'\e[0m'; fi

say() { printf '\n%s== %s%s\n' "$bold" "$*" "$plain"; }
note() { printf '   %s\n' "$*"; }

fail() {
  printf '\ndemo: %s\n' "$*" >&2
  local log
  for log in "$run"/*.log; do
    [[ -s $log ]] || continue
    printf '\n--- the end of %s\n' "$(basename "$log")" >&2
    tail -n 15 "$log" >&2
  done
  printf '\ndemo: failed: %s (everything is in %s)\n' "$*" "$run" >&2
  failed=yes
  exit 1
}

# --- processes ---------------------------------------------------------------

children=()
failed=''

# spawn NAME COMMAND…: starts it with its output in NAME.log; its id is in $spawned.
spawn() {
  local name=$1
  shift
  : >"$run/$name.log"
  setsid "$@" >"$run/$name.log" 2>&1 </dev/null &
  spawned=$!
  children+=("$spawned")
}

# stop PID…: ends them in order, each with ten seconds to finish.
stop() {
  local pid tries i
  for pid in "$@"; do
    for i in "${!children[@]}"; do
      if [[ ${children[$i]} == "$pid" ]]; then unset "children[$i]"; fi
    done
    kill -TERM "$pid" 2>/dev/null || continue
    for ((tries = 0; tries < 100; tries++)); do
      kill -0 "$pid" 2>/dev/null || break
      sleep 0.1
    done
    kill -KILL "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
  done
}

cleanup() {
  local code=$? pid newest_first=()
  trap - EXIT
  if [[ -n $keep && $code -eq 0 ]]; then exit 0; fi
  for pid in "${children[@]}"; do newest_first=("$pid" "${newest_first[@]}"); done
  stop "${newest_first[@]}"
  if [[ -z $failed && $code -eq 0 ]]; then rm -rf "$run"; fi
  exit "$code"
}

run=$(mktemp -d "${TMPDIR:-/tmp}/tepui-demo.XXXXXX")
readonly run
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# alive PID NAME: fails the demonstration if the process has ended.
alive() { kill -0 "$1" 2>/dev/null || fail "$2 has ended by itself"; }

# address NAME WHAT: sets $found to the URL that NAME.log says it serves WHAT on.
address() {
  local tries
  for ((tries = 0; tries < 100; tries++)); do
    found=$(sed -n "s|^.*: .* $2 on \(http://.*\)\$|\1|p" "$run/$1.log" | head -n 1)
    if [[ -n $found ]]; then return; fi
    sleep 0.1
  done
  fail "$1 does not say where it serves $2"
}

free_port() {
  python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# progress TEXT: one line on a terminal, written again and again; nothing in a pipe.
progress() { if [[ -t 1 ]]; then printf '\r\e[K   %s' "$*"; fi; }
progress_end() { if [[ -t 1 ]]; then printf '\r\e[K'; fi; }

# --- the parts ---------------------------------------------------------------

build() {
  [[ -x $programs/agent && -x $programs/collector ]] ||
    fail "no agent and collector in $programs; type: make demo"
  note "building logger, its load, and the alert receiver with $(go version | cut -d' ' -f3)"
  (cd "$here" && GOTOOLCHAIN=local go build -trimpath -o "$run/bin/" ./...) || fail "go build failed"
}

start_collector() { # NAME
  local port tries
  port=$(free_port)
  collector_url=http://127.0.0.1:$port
  spawn "$1" "$programs/collector" serve --listen "127.0.0.1:$port" --data "$run/$1.data" \
    --hook-url "$hook_url" "${detect[@]}"
  collector_pid=$spawned
  for ((tries = 0; tries < 150; tries++)); do
    alive "$collector_pid" "the collector"
    if curl -fsS -m 2 -o "$run/ready" "$collector_url/ready" 2>"$run/ready.err"; then return; fi
    sleep 0.2
  done
  fail "the collector is not ready after 30 s"
}

start_logger() { # NAME [FLAG…]
  local name=$1
  shift
  spawn "$name" "$run/bin/logger" -listen 127.0.0.1:0 -pprof 127.0.0.1:0 \
    -sink "$sink_url" -queue "$run/$name.queue" "$@"
  logger_pid=$spawned
  address "$name" lines
  logger_url=$found
}

start_load() { # NAME REQUESTS-PER-SECOND LINES-PER-REQUEST
  spawn "$1" "$run/bin/load" -target "$logger_url/log" -rate "$2" -lines "$3"
  load_pid=$spawned
}

start_agent() { # NAME SERVICE SOURCE
  note "agent run --pid $logger_pid --service $2 --source $3 --collector $collector_url"
  spawn "$1" env TEPUI__AGENT__ENDPOINT__CPU_EVERY=$endpoint_every \
    TEPUI__AGENT__ENDPOINT__SNAPSHOT_EVERY=$endpoint_every \
    "$programs/agent" run --pid "$logger_pid" --service "$2" --source "$3" \
    --collector "$collector_url" --spool "$run/$1.spool"
  agent_pid=$spawned
}

# query SERVICE ARGUMENT…: asks the collector, and shows what was typed.
query() {
  local service=$1
  shift
  printf '\n%s$ collector query --service %s --since 5m %s%s\n' "$bold" "$service" "$*" "$plain"
  "$programs/collector" query --server "$collector_url" --service "$service" --since 5m "$@" ||
    fail "collector query --service $service $* failed"
}

# flame FILE SERVICE ARGUMENT…: writes a flame graph to $out.
flame() {
  local file=$out/$1
  shift
  query "$@" --format svg -o "$file"
  grep -q '<svg' "$file" || fail "$file holds no picture"
  note "flame graph: $file"
}

# --- the story ---------------------------------------------------------------

# wait_for_alert FILE: waits until the hook has the alert of the spin.
wait_for_alert() {
  while ! "$run/bin/hook" -find "$1" -service logger -path startSink,selectgo >"$run/alert.json"; do
    alive "$hook_pid" "the alert receiver"
    alive "$collector_pid" "the collector"
    alive "$logger_pid" "logger"
    alive "$agent_pid" "the agent"
    if ((SECONDS - logger_began > flag_seconds)); then
      progress_end
      fail "the spin was not flagged within $flag_seconds s of its start (source $source)"
    fi
    progress "sampling logger … $((SECONDS - logger_began)) s (at most $flag_seconds)"
    sleep 0.5
  done
  progress_end
}

spin_is_flagged() { # SOURCE
  local source=$1 alerts=$run/$1.alerts
  say "The spin of logger, seen by source \"$source\""
  note "the detection window is shortened for the demonstration: ${detect[*]}"
  note "(at the defaults, a row a minute and five minutes, an alert takes about six)"
  if [[ $source == endpoint ]]; then
    note "the endpoint's CPU profile is pulled every $endpoint_every here, every 60 s by default"
  fi

  spawn "hook-$source" "$run/bin/hook" -out "$alerts"
  hook_pid=$spawned
  address "hook-$source" hook
  hook_url=$found
  start_collector "collector-$source"
  local logger_began=$SECONDS
  start_logger "logger-$source"
  start_load "load-$source" 50 1
  start_agent "agent-$source" logger "$source"

  wait_for_alert "$alerts"
  say "Flagged $((SECONDS - logger_began)) s after logger started. The alert as the hook received it:"
  cat "$run/alert.json"
  "$run/bin/hook" -find "$alerts" -service logger -path startSink,selectgo -labels >"$run/$source.labels"

  query logger --format top
  query logger --format tree
  flame "logger-$source.svg" logger

  local url="$collector_url/api/v1/profile?service=logger&since=5m&format=pprof"
  printf '\n%s$ go tool pprof -top %s%s\n' "$bold" "'$url'" "$plain"
  PPROF_TMPDIR=$run go tool pprof -top -cum -nodecount=8 "$url" >"$run/pprof.txt" 2>"$run/pprof.log" ||
    fail "go tool pprof cannot read $url"
  cat "$run/pprof.txt"
  grep -q 'main\.startSink' "$run/pprof.txt" || fail "go tool pprof does not show main.startSink"
  say "The page: $collector_url/"
}

end_phase() { stop "$load_pid" "$agent_pid" "$logger_pid" "$collector_pid" "$hook_pid"; }

same_alert() {
  cmp -s "$run/perf.labels" "$run/endpoint.labels" ||
    fail "the two sources raised different alerts: $(cat "$run/perf.labels") and $(cat "$run/endpoint.labels")"
  note "both sources raised the same alert: $(cat "$run/endpoint.labels")"
}

# compression SERVICE: percent of the CPU time spent below package compress.
compression() {
  "$programs/collector" query --server "$collector_url" --service "$1" --since 5m --format folded |
    awk '{ all += $NF; if (/compress\//) some += $NF } END { if (all > 0) printf "%.0f", 100 * some / all; else print 0 }'
}

repaired_is_quiet() { # SOURCE whose alerts file is watched
  local alerts=$run/$1.alerts began share
  say "The repaired logger under heavier load, for $repaired_seconds s"
  start_logger logger-repaired -repaired
  start_load load-repaired 120 200
  start_agent agent-repaired logger-repaired auto
  began=$SECONDS
  while ((SECONDS - began < repaired_seconds)); do
    alive "$logger_pid" "the repaired logger"
    alive "$agent_pid" "its agent"
    alive "$collector_pid" "the collector"
    if "$run/bin/hook" -find "$alerts" -service logger-repaired >"$run/alert.json"; then
      progress_end
      cat "$run/alert.json"
      fail "an alert was raised for the repaired logger"
    fi
    progress "watching … $((SECONDS - began)) s of $repaired_seconds"
    sleep 1
  done
  progress_end
  query logger-repaired --format top
  share=$(compression logger-repaired) || fail "cannot read the profile of logger-repaired"
  ((share >= 55 && share <= 90)) || fail "compression is $share % of the repaired logger, not near 70 %"
  note "compression is $share % of its CPU time, and no alert was raised in $repaired_seconds s"
  flame logger-repaired.svg logger-repaired
  flame logger-repaired-heap.svg logger-repaired --type inuse_space
}

main() {
  mkdir -p "$out"
  say "Tepui's demonstration"
  build
  spawn sink "$run/bin/load" -sink 127.0.0.1:0
  address sink sink
  sink_url=$found

  local sources=(perf endpoint) refused=''
  if ! "$run/bin/canperf" -pid "$$" 2>"$run/canperf.txt"; then
    refused=$(cat "$run/canperf.txt")
    sources=(endpoint)
    say "!! THIS HOST REFUSES PERF EVENTS: only the endpoint source is shown"
    note "$refused"
    note "a lower kernel.perf_event_paranoid (2 or less) or CAP_PERFMON allows them"
  fi

  local source last=${sources[${#sources[@]} - 1]}
  for source in "${sources[@]}"; do
    spin_is_flagged "$source"
    if [[ $source != "$last" ]]; then end_phase; fi
  done
  if [[ -z $refused ]]; then same_alert; fi
  repaired_is_quiet "$last"

  say "Seen: the spin flagged (${sources[*]}), the hook told, the repaired logger quiet (${SECONDS} s in all)"
  if [[ -n $refused ]]; then note "NOT seen: source perf ($refused)"; fi
  note "flame graphs: $out"
  if [[ -n $keep ]]; then
    note "still running; the page: $collector_url/"
    note "to stop everything: kill ${children[*]}; rm -r $run"
  fi
}

main
