#!/usr/bin/env bash
# Measures the table of targets: all rows that the file of outcomes lacks, or the rows that are named (again).
#
#   targets.sh [ROW..]            rows: one sixteen many most bytes cpu rotations open-loop opening large scan pins
#
#   DIR     where to measure, on the disk in question (default: target/targets in this repository)
#   OUT     the file of outcomes, lines of JSON (default: DIR/targets.jsonl)
#   ROUNDS  of each row (default 5); SECONDS_EACH of each run (default 1)
#   PLACES  for the row pins, as for places.sh, which needs root
#
# Prints the table. Needs fio for the row bytes, 12 GiB of room for the row large (LARGE_GIB makes it smaller), and a
# machine that does nothing else. Everything takes about 20 minutes.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
DIR=${DIR:-$here/../target/targets}
mkdir -p "$DIR"
OUT=${OUT:-$DIR/targets.jsonl}
rounds=${ROUNDS:-5}
rows=() pins=''
for row in "$@"; do
  if [ "$row" = pins ]; then pins=again; else rows+=("$row"); fi
done

cargo build --release --quiet --manifest-path "$here/peers/Cargo.toml"
peers=${CARGO_TARGET_DIR:-$here/peers/target}/release/ringwal-peers

status=0
if [ $# -eq 0 ] || [ "${#rows[@]}" -gt 0 ]; then
  "$peers" targets --dir "$DIR" --json "$OUT" --rounds "$rounds" --seconds "${SECONDS_EACH:-1}" \
    --large-gib "${LARGE_GIB:-10}" ${rows[@]+"${rows[@]}"} >/dev/null || status=$?
fi
# Without rows: only the places that the file lacks.
for place in ${PLACES:-root ext4 ext4-nojournal xfs}; do
  done_already=$(grep -c "\"row\":\"pins\".*\"what\":\"$place, 2048 " "$OUT" 2>/dev/null || true)
  if [ "$pins" = again ] || { [ $# -eq 0 ] && [ "${done_already:-0}" -eq 0 ]; }; then
    PLACES=$place "$here/places.sh" "$DIR" "$peers" pins --dir '{dir}' --place '{place}' --json "$OUT" \
      --rounds "$rounds" || status=$?
  fi
done
"$peers" targets --report --json "$OUT"
exit "$status"
