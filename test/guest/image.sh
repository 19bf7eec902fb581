#!/usr/bin/env bash
# image.sh FOLDER KIND BYTES IMAGE: makes a sparse guest disk with what build.sh left in FOLDER. Kinds: plain (ext4 on the whole disk, to be booted
# with -kernel), bios (MBR, SYSLINUX), uefi (GPT, the kernel as an EFI program). No root, no mounts, no loop devices needed.
set -euo pipefail
folder=$1 kind=$2 bytes=$3 image=$4
work=$(mktemp -d "$folder/work.XXXX")
trap 'rm -rf "$work"' EXIT
mib=1048576
boot_mib=32 # FAT16: OVMF and mtools refuse FAT32 of this size
uuid=$([ "$kind" = bios ] && echo aaaaaaaa-0000-4000-8000-0000000000b1 || echo aaaaaaaa-0000-4000-8000-0000000000e1)
append="console=ttyS0 root=UUID=$uuid ro quiet panic=-1 mitigations=off"

ext4() { # FILE OFFSET BYTES: root filesystem within FILE; large ones get few inodes, so that making them stays cheap
  local options=()
  [ "$3" -lt $((1024 * mib)) ] || options=(-i $mib)
  mkfs.ext4 -q -F -L guest -U "$uuid" -m 0 -E "lazy_itable_init=1,lazy_journal_init=1,root_owner=0:0,offset=$2" "${options[@]}" \
    -d "$folder/root" "$1" "$(($3 / 1024))k"
}
fat() { # FILE: empty FAT16
  truncate -s $((boot_mib * mib)) "$1"
  mkfs.vfat -F 16 -n BOOT "$1" >/dev/null
}
partitions() { # DESCRIPTION: the image with two partitions, the first from boot.img
  truncate -s "$bytes" "$work/image"
  printf '%s\n' "$1" | sfdisk -q "$work/image"
  dd if="$work/boot.img" of="$work/image" bs=$mib seek=1 conv=notrunc,sparse status=none
  ext4 "$work/image" $(((1 + boot_mib) * mib)) "$root_bytes"
}
root_bytes=$((bytes - (2 + boot_mib) * mib))

case $kind in
plain)
  truncate -s "$bytes" "$work/image"
  ext4 "$work/image" 0 "$bytes"
  ;;
bios)
  fat "$work/boot.img"
  printf 'DEFAULT l\nPROMPT 0\nTIMEOUT 1\nLABEL l\n KERNEL vmlinuz\n INITRD initrd.img\n APPEND %s\n' "$append" >"$work/syslinux.cfg"
  mcopy -i "$work/boot.img" "$folder/vmlinuz" "$folder/initrd.img" "$work/syslinux.cfg" ::
  syslinux --install "$work/boot.img"
  partitions "label: dos
start=1MiB,size=${boot_mib}MiB,type=e,bootable
start=$((1 + boot_mib))MiB,size=$((root_bytes / mib))MiB,type=83"
  dd if=/usr/lib/syslinux/mbr/mbr.bin of="$work/image" bs=440 count=1 conv=notrunc status=none
  ;;
uefi)
  fat "$work/boot.img"
  printf '%s' "$append" >"$work/cmdline"
  objcopy --add-section .osrel=/etc/os-release --change-section-vma .osrel=0x20000 \
    --add-section .cmdline="$work/cmdline" --change-section-vma .cmdline=0x30000 \
    --add-section .linux="$folder/vmlinuz" --change-section-vma .linux=0x2000000 \
    --add-section .initrd="$folder/initrd.img" --change-section-vma .initrd=0x3000000 \
    /usr/lib/systemd/boot/efi/linuxx64.efi.stub "$work/boot.efi"
  mmd -i "$work/boot.img" ::EFI ::EFI/BOOT
  mcopy -i "$work/boot.img" "$work/boot.efi" ::EFI/BOOT/BOOTX64.EFI
  partitions "label: gpt
start=1MiB,size=${boot_mib}MiB,type=U
start=$((1 + boot_mib))MiB,size=$((root_bytes / mib))MiB,type=L"
  ;;
*)
  echo "unknown kind $kind: plain, bios or uefi" >&2
  exit 2
  ;;
esac
mv "$work/image" "$image"
