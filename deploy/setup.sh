#!/usr/bin/env bash
# Installs what building, testing and linting need and this machine lacks. As
# root on Debian it installs the packages; otherwise it prints the line to type
# and exits with 1. A second run finds everything there and asks no network.
#
#   TEPUI_TOOLS=DIR   where tools from PyPI and promtool go (default: ~/.cache/tepui-tools)
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
tools=${TEPUI_TOOLS:-$HOME/.cache/tepui-tools}
readonly here tools
PATH=$PATH:$HOME/.cargo/bin:/usr/local/go/bin
readonly old_go=/usr/lib/go-1.19/bin/go

packages=()

# need PACKAGE COMMAND…: asks for the Debian package unless COMMAND succeeds.
need() {
  local package=$1
  shift
  if ! "$@" >/dev/null 2>&1; then packages+=("$package"); fi
}

# The C library of clang, which bindgen loads; libclang-cpp is another one.
have_libclang() {
  [[ -n ${LIBCLANG_PATH:-} ]] ||
    compgen -G '/usr/lib/llvm-*/lib/libclang[.-][s0-9]*' ||
    compgen -G '/usr/lib*/libclang[.-][s0-9]*' ||
    compgen -G '/usr/lib/*-linux-gnu/libclang[.-][s0-9]*'
}

# The oldest Go that logger must build with and whose binaries are read in
# tests. Debian 12 packages it; where no package exists, the Go there is does.
have_old_go() {
  [[ -x $old_go ]] || { [[ -n $(go version 2>/dev/null) ]] && ! apt-cache show golang-1.19-go; }
}

# The JVM source is tested against a real machine.
have_jdk() { command -v java && command -v javac && command -v jcmd; }

have_venv() { [[ -x $tools/venv/bin/python ]] || python3 -c 'import ensurepip, venv'; }

find_missing_packages() {
  packages=()
  need ca-certificates test -s /etc/ssl/certs/ca-certificates.crt
  need curl command -v curl
  need default-jdk-headless have_jdk
  need g++ command -v g++
  need golang-go command -v go
  need libclang-dev have_libclang
  need make command -v make
  need python3 command -v python3
  need python3-venv have_venv
  need shellcheck command -v shellcheck
  need util-linux command -v setpriv
  # Last: it can be judged only when the package lists are there.
  need golang-1.19-go have_old_go
}

install_packages() {
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -q -o Acquire::Retries=3
  find_missing_packages # the lists may tell more now
  [[ ${#packages[@]} -eq 0 ]] ||
    apt-get install -y -q --no-install-recommends -o Acquire::Retries=3 "${packages[@]}"
}

check_packages() {
  find_missing_packages
  if [[ ${#packages[@]} -eq 0 ]]; then return; fi
  if ! command -v apt-get >/dev/null; then
    printf 'setup: missing (by the names of their Debian packages): %s\n' "${packages[*]}" >&2
    exit 1
  fi
  if [[ $(id -u) -ne 0 ]]; then
    {
      printf 'setup: some packages are missing; type this and try again:\n\n'
      printf '  sudo apt-get update && sudo apt-get install -y --no-install-recommends %s\n\n' "${packages[*]}"
    } >&2
    exit 1
  fi
  printf 'setup: installing %s\n' "${packages[*]}"
  install_packages
  find_missing_packages
  if [[ ${#packages[@]} -gt 0 ]]; then
    printf 'setup: still missing after installing: %s\n' "${packages[*]}" >&2
    exit 1
  fi
}

# Rust is not taken from Debian, whose compiler is too old for edition 2024.
check_rust() {
  local tool
  for tool in cargo cargo-fmt cargo-clippy; do
    if ! command -v "$tool" >/dev/null; then
      {
        printf 'setup: %s is missing. Install Rust with https://rustup.rs, or if rustup is there type:\n\n' "$tool"
        printf '  rustup toolchain install stable --component clippy,rustfmt && rustup default stable\n\n'
      } >&2
      exit 1
    fi
  done
}

check_tools() {
  if cmp -s "$here/tools.txt" "$tools/venv/installed.txt"; then return; fi
  printf 'setup: installing the tools of deploy/tools.txt into %s\n' "$tools/venv"
  mkdir -p "$tools"
  python3 -m venv --clear "$tools/venv"
  "$tools/venv/bin/pip" install --quiet --disable-pip-version-check --retries 5 -r "$here/tools.txt"
  cp "$here/tools.txt" "$tools/venv/installed.txt"
}

# Only promtool: installing its package would start a server as well.
check_promtool() {
  if command -v promtool >/dev/null || [[ -x $tools/bin/promtool ]]; then return; fi
  if ! command -v apt-get >/dev/null; then
    printf 'setup: promtool is missing; take it from https://prometheus.io/download and put it into %s\n' "$tools/bin" >&2
    exit 1
  fi
  if ! apt-cache show prometheus >/dev/null 2>&1; then
    if [[ $(id -u) -ne 0 ]]; then
      printf 'setup: the package lists are missing; type this and try again:\n\n  sudo apt-get update\n\n' >&2
      exit 1
    fi
    apt-get update -q -o Acquire::Retries=3
  fi
  printf 'setup: taking promtool from the package prometheus into %s\n' "$tools/bin"
  mkdir -p "$tools/bin" "$tools/unpacked"
  (cd "$tools/unpacked" && apt-get download -q -o Acquire::Retries=3 prometheus)
  dpkg-deb -x "$tools"/unpacked/prometheus_*.deb "$tools/unpacked"
  install "$tools/unpacked/usr/bin/promtool" "$tools/bin/promtool"
  rm -r "$tools/unpacked"
}

check_packages
check_rust
check_tools
check_promtool
