#!/usr/bin/env bash
# btrfs over its quota: a file cannot be made shorter, and cannot be renamed. It can be unlinked.
#
# A program that has met EDQUOT in the middle of an append cuts the file back to where it was: shrinking frees room, so one
# expects that it is always allowed, as on ext4, XFS, tmpfs, and on a btrfs that is full without a quota. Over a qgroup's
# limit it ends with EDQUOT, even if the file keeps the length that it has. So does the usual way out, writing a shorter file
# beside and renaming it over the old one. Unlinking is what is left.
#
# Needs root, a loop device and btrfs-progs (Debian's; nothing else is installed). Seen with btrfs-progs 6.2, Linux 6.18.
set -euo pipefail
lacks() { echo "LACKS: $*"; exit 77; }
changed() { echo "CHANGED: $*"; exit 1; }
[ "$(id -u)" = 0 ] || lacks root
command -v mkfs.btrfs >/dev/null || lacks btrfs-progs
command -v perl >/dev/null || lacks perl

folder=$(mktemp -d)
trap 'umount "$folder/m" 2>/dev/null || true; rm -rf "$folder"' EXIT
truncate --size 512M "$folder/image"
mkfs.btrfs --quiet "$folder/image"
mkdir "$folder/m"
mount -o loop "$folder/image" "$folder/m" 2>/dev/null || lacks "a loop device or btrfs in the kernel"
btrfs quota enable "$folder/m"
btrfs subvolume create "$folder/m/s" >/dev/null
head --bytes 8M /dev/urandom >"$folder/m/s/a"
echo small >"$folder/m/s/b"
sync --file-system "$folder/m"
btrfs quota rescan -w "$folder/m" >/dev/null
echo "$(uname -r), $(mkfs.btrfs --version)"

# errno of one call, 0 for none.
call() { perl -e "$1"' ? print "0\n" : print 0+$!, " ($!)\n"' "$folder/m/s/a" "$folder/m/s/b"; }
half='open(my $f, "+<", $ARGV[0]) or die $!; truncate($f, 4 << 20)'
same='open(my $f, "+<", $ARGV[0]) or die $!; truncate($f, -s $f)'
name='rename($ARGV[1], "$ARGV[1].new")'
gone='unlink($ARGV[0])'

btrfs qgroup limit 1M "$folder/m/s"
for what in half same name gone; do
    got=$(call "${!what}")
    echo "over the quota: $what: $got"
    case $what:$got in
        gone:0) ;;
        gone:*) changed "a file cannot be unlinked over the quota" ;;
        *:122*) ;;
        *) changed "$what does not end with EDQUOT" ;;
    esac
done
echo "AS STATED: over its quota btrfs refuses to shrink and to rename (EDQUOT), and unlinks"
