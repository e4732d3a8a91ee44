#!/usr/bin/env bash
# Runs a command in several places: the directory that is given, and file systems made on loop devices below it.
#
#   places.sh DIR COMMAND...      in COMMAND, {dir} is the directory and {place} its name
#
# Places: root (DIR itself), ext4 (with its journal), ext4-nojournal, xfs. PLACES="root xfs" chooses. Loop devices use
# direct I/O, so that the page cache of the file below is no second cache. Everything is taken down again, also behind a
# failure or a signal. Needs root, losetup, mkfs.ext4 and mkfs.xfs; PLACE_MIB is the size of each (default 3072).
set -euo pipefail

usage() { sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 3; }
[ $# -ge 2 ] || usage
base=$(realpath -e -- "$1"); shift
places=${PLACES:-root ext4 ext4-nojournal xfs}
mib=${PLACE_MIB:-3072}
work='' device='' mounted=''

take_down() {
  [ -z "$mounted" ] || umount "$work/mount" || umount -l "$work/mount" || true
  mounted=''
  [ -z "$device" ] || losetup --detach "$device" || true
  device=''
  [ -z "$work" ] || rm -rf --one-file-system -- "$work"
  work=''
}
trap take_down EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

make_place() {
  work=$(mktemp -d -- "$base/ringwal-place.XXXXXX")
  mkdir "$work/mount"
  # Written blocks: a hole in the file below would make every first write a change of its metadata.
  dd if=/dev/zero of="$work/image" bs=1M count="$mib" oflag=direct conv=fsync status=none
  device=$(losetup --find --show --direct-io=on "$work/image")
  case $1 in
    ext4) mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 "$device" ;;
    ext4-nojournal) mkfs.ext4 -q -O ^has_journal -E lazy_itable_init=0 "$device" ;;
    xfs) mkfs.xfs -q "$device" ;;
    *) echo "places.sh: no place $1; there are root, ext4, ext4-nojournal, xfs" >&2; exit 3 ;;
  esac
  mount "$device" "$work/mount"
  mounted=yes
  dir=$work/mount
}

status=0
for place in $places; do
  dir=$base
  [ "$place" = root ] || make_place "$place"
  command=()
  for word in "$@"; do
    word=${word//\{dir\}/$dir}
    command+=("${word//\{place\}/$place}")
  done
  echo "== $place" >&2
  "${command[@]}" || status=$?
  take_down
done
exit "$status"
