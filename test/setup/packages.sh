#!/usr/bin/env bash
# What the tests need beyond Node: filesystems' tools, a compiler for the writers, systemd-analyze, servers of object stores. Needs root; without it the tests
# that need devices skip themselves and say so.
set -euo pipefail
need=()
have() { command -v "$1" >/dev/null 2>&1 || need+=("$2"); }
have mkfs.ext4 e2fsprogs
have mkfs.xfs xfsprogs
have mkfs.btrfs btrfs-progs
have fio fio
have gcc gcc
have losetup mount
have partx fdisk
have systemd-analyze systemd
have python3 python3-minimal
have faketime faketime
have qemu-system-x86_64 qemu-system-x86
have qemu-img qemu-utils
have nbdkit nbdkit
have syslinux syslinux
have mcopy mtools
have mkfs.vfat dosfstools
have objcopy binutils
have sfdisk fdisk
have lz4 lz4
have cpio cpio
have debootstrap debootstrap
have openssl openssl
# What guests are made of has no command of its own that could be looked for.
[ -e /usr/share/OVMF/OVMF_CODE.fd ] || need+=(ovmf)
[ -e /usr/lib/syslinux/mbr/mbr.bin ] || need+=(syslinux-common)
[ -e /usr/lib/systemd/boot/efi/linuxx64.efi.stub ] || need+=(systemd-boot-efi)
[ -e /usr/share/doc/busybox-static ] || need+=(busybox-static)
have nbdcopy libnbd-bin
have qemu-io qemu-utils
/usr/bin/python3 -c 'import nbd' 2>/dev/null || need+=(python3 python3-libnbd)
[ -e /usr/include/stdlib.h ] || need+=(libc6-dev)
# Databases: tests start servers of their own.
ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || need+=(postgresql)
[ -e /usr/sbin/mariadbd ] || need+=(mariadb-server-core mariadb-client-core)
have redis-server redis-server
if [ "$(id -u)" != 0 ]; then
  [ ${#need[@]} -eq 0 ] || echo "not root: missing packages are not installed (${need[*]}); tests that need them skip"
  exit 0
fi
if [ ${#need[@]} -gt 0 ]; then
  export DEBIAN_FRONTEND=noninteractive
  # Packages must not start their services here.
  policy=/usr/sbin/policy-rc.d
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod +x "$policy"
    trap 'rm -f "$policy"' EXIT
  fi
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends "${need[@]}" >/dev/null
fi
bash "$(dirname "$0")/../servers/install.sh"
