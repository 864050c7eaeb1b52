#!/usr/bin/env bash
# Renders the base with kubectl, checks every object strictly against the schemas
# of the oldest and the newest supported Kubernetes, and checks what the manifests
# promise. Works on a copy, with tokens made for it; needs no cluster.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
tools=${TEPUI_TOOLS:-$HOME/.cache/tepui-tools}/venv/bin
copy=$(mktemp -d)
readonly here tools copy versions=(1.29 1.33 1.37)
trap 'rm -rf "$copy"' EXIT

kubectl=$(command -v kubectl || echo "$tools/kubectl")
passed=0
check() { # WHAT COMMAND…
  local what=$1
  shift
  if ! "$@" >"$copy/output.txt" 2>&1; then
    printf '%s: failed\n' "$what" >&2
    cat "$copy/output.txt" >&2
    exit 1
  fi
  passed=$((passed + 1))
}

valid() { # VERSION FILE
  "$tools/kubernetes-validate" --strict --quiet -k "$1" "$2"
}
refused() { ! "$@"; }

mkdir "$copy/base"
cp "$here"/*.yaml "$copy/base"
check 'without tokens nothing is rendered' refused "$kubectl" kustomize "$copy/base"
check 'make-token.sh makes tokens' "$here/make-token.sh" "$copy/base"
cp "$copy/base/secrets/tokens.txt" "$copy/first.txt"
check 'make-token.sh runs again' "$here/make-token.sh" "$copy/base"
check 'a second run keeps the tokens' cmp "$copy/first.txt" "$copy/base/secrets/tokens.txt"
check 'tokens are for their owner only' test "$(stat -c %a "$copy/base/secrets/tokens.txt")" = 600

"$kubectl" kustomize "$copy/base" >"$copy/rendered.yaml"
for version in "${versions[@]}"; do
  check "valid in Kubernetes $version" valid "$version" "$copy/rendered.yaml"
done
sed 's/shareProcessNamespace/shareProcesNamespace/' "$copy/rendered.yaml" >"$copy/misspelt.yaml"
check 'the validation is strict' refused valid "${versions[-1]}" "$copy/misspelt.yaml"

facts() { "$tools/python" "$here/facts.py" <"$1"; }
sed 's/shareProcessNamespace: true/shareProcessNamespace: false/' "$copy/rendered.yaml" >"$copy/apart.yaml"
check 'a broken promise is seen' refused facts "$copy/apart.yaml"
facts "$copy/rendered.yaml"
printf 'kubernetes: %d passed, 0 failed\n' "$passed"
