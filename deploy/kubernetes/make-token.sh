#!/usr/bin/env bash
# Makes the tokens that the Secret is generated from: secrets/tokens.txt for the
# collector (lines "ROLE TENANT TOKEN"), and one file per role for the others.
# Files that are there stay as they are; delete the folder to get new tokens.
#
#   make-token.sh [FOLDER]   default: the folder of this script
set -euo pipefail

folder=${1:-$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)}/secrets
readonly folder tenant=default

if [[ -s $folder/tokens.txt ]]; then
  printf '%s is there already\n' "$folder/tokens.txt" >&2
  exit 0
fi

umask 077
mkdir -p "$folder"
for role in agent reader admin; do
  token=$(head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n')
  printf '%s\n' "$token" >"$folder/$role-token"
  printf '%s %s %s\n' "$role" "$tenant" "$token"
done >"$folder/tokens.txt.new"
mv "$folder/tokens.txt.new" "$folder/tokens.txt"
printf 'made %s; keep it out of version control\n' "$folder/tokens.txt" >&2
