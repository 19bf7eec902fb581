#!/usr/bin/env bash
# build.sh FOLDER: makes what all test guests share, unless it is there: kernel (vmlinuz, and vmlinux unpacked: boots a second faster under
# emulation), initrd.img, root/ (the tree of the root filesystem). The kernel is Debian's cloud kernel, downloaded, not installed. No root needed.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
folder=$1
mkdir -p "$folder"
exec 9>"$folder/lock"
flock 9
[ ! -e "$folder/complete" ] || exit 0

work=$(mktemp -d "$folder/work.XXXX")
trap 'rm -rf "$work"' EXIT
download() {
  local package
  package=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image/ { print $2; exit }')
  [ -n "$package" ] && (cd "$work" && apt-get -o APT::Sandbox::User=root -qq download "$package" >&2)
}
download || { apt-get -qq update >&2 && download; } || { echo "the package linux-image-cloud-amd64 can't be downloaded" >&2; exit 1; }
dpkg -x "$work"/linux-image-*.deb "$work/kernel"
mv "$work"/linux-image-*.deb "$folder/kernel.deb" # all modules, for guests that need more of them
cp "$work"/kernel/boot/vmlinuz-* "$folder/vmlinuz"
# The kernel is packed with LZ4 behind its loader; QEMU starts the unpacked file directly (PVH).
offset=$(LC_ALL=C grep -abo -P '\x02\x21\x4c\x18' "$folder/vmlinuz" | awk -F: 'NR == 1 { print $1 }')
tail -c +$((offset + 1)) "$folder/vmlinuz" | lz4 -qdc >"$folder/vmlinux" 2>/dev/null || true # what follows the kernel is no LZ4
[ "$(head -c 4 "$folder/vmlinux" | tail -c 3)" = ELF ] || cp "$folder/vmlinuz" "$folder/vmlinux"

modules() { # FOLDER NAME...: copies modules; the order is the order of loading
  local target=$1 name
  shift
  for name in "$@"; do
    find "$work/kernel/lib/modules" -name "$name.ko" -exec cp {} "$target/" \;
    [ ! -e "$target/$name.ko" ] || echo "$name" >>"$target/order"
  done
}
busybox_into() {
  local applet
  cp "$(command -v busybox)" "$1/busybox"
  for applet in $("$1/busybox" --list); do
    [ "$applet" = busybox ] || [ -e "$1/$applet" ] || ln -s busybox "$1/$applet"
  done
}
virtio=(virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci)

initrd=$work/initrd
mkdir -p "$initrd"/{bin,dev,proc,lib,newroot}
busybox_into "$initrd/bin"
modules "$initrd/lib" "${virtio[@]}" virtio_blk
install -m 755 "$here/initramfs-init" "$initrd/init"
(cd "$initrd" && find . | cpio -o -H newc -R 0:0 --quiet | gzip -9) >"$folder/initrd.img"

root=$folder/root
rm -rf "$root"
mkdir -p "$root"/{dev,proc,sys,tmp,lib}
cp -R "$here/root/." "$root/"
find "$root" -type f -exec chmod 755 {} +
busybox_into "$root/bin"
modules "$root/lib" "${virtio[@]}" failover net_failover virtio_net evdev button
: >"$root/boots.log"
: >"$root/data.log"
: >"$root/writer.log"
for log in boots data writer; do ln -s "../$log.log" "$root/www/$log.log"; done
touch "$folder/complete"
