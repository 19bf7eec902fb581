#!/usr/bin/env bash
# build.sh FOLDER KERNEL_FOLDER: makes the root of a Debian guest with systemd and LVM (FOLDER/tree), unless it is there. KERNEL_FOLDER is what
# test/guest/build.sh made: the guest is started with that kernel and initramfs. Needs root; some minutes once, mostly debootstrap.
set -euo pipefail
folder=$1 kernel=$2
mkdir -p "$folder"
exec 9>"$folder/lock"
flock 9
[ ! -e "$folder/complete" ] || exit 0
tree=$folder/tree
rm -rf "$tree"

release=$(. /etc/os-release && echo "$VERSION_CODENAME")
packages=systemd,systemd-sysv,udev,dbus,iproute2,procps,kmod,e2fsprogs,xfsprogs,lvm2,qemu-guest-agent,libstdc++6
# What takes long, and seldom changes.
base=/var/tmp/afterimage-debootstrap-$release-$(cksum <<<"$packages" | cut -d' ' -f1)
exec 8>"$base.lock"
flock 8
if [ ! -d "$base" ]; then
  mirror=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
    awk -v r="$release" '$2 == r && $3 == "main" { print $1; exit }')
  [ -n "$mirror" ] || { echo "apt knows no source for Debian $release" >&2; exit 1; }
  rm -rf "$base.new"
  debootstrap --variant=minbase --include="$packages" "$release" "$base.new" "$mirror" >"$base.log" 2>&1 ||
    { tail -5 "$base.log" >&2; exit 1; }
  mv "$base.new" "$base"
fi
cp -a "$base" "$tree"
rm -rf "$tree"/var/cache/apt/archives/*.deb "$tree"/var/lib/apt/lists/* "$tree"/usr/share/{doc,man,locale,info}/*

dpkg -x "$kernel/kernel.deb" "$folder/kernel"
mkdir -p "$tree/lib/modules"
cp -a "$folder"/kernel/lib/modules/* "$tree/lib/modules/"
rm -rf "$folder/kernel"
version=$(basename "$tree"/lib/modules/*)
# Those of sounds, graphics and networks of all the world are of no use here.
rm -rf "$tree/lib/modules/$version/kernel"/{sound,drivers/{gpu,infiniband,media,hid,usb,scsi,net/ethernet}}
chroot "$tree" depmod "$version"

ln -s lib/systemd/systemd "$tree/init" # what the initramfs hands over to
echo source >"$tree/etc/hostname"
printf '127.0.0.1 localhost source\n' >"$tree/etc/hosts"
: >"$tree/etc/machine-id"
echo '/dev/vda / ext4 errors=remount-ro 0 1' >"$tree/etc/fstab"
cat >"$tree/etc/systemd/network/10-host.network" <<'I'
[Match]
MACAddress=52:54:00:00:00:99
[Network]
Address=10.0.3.15/24
Gateway=10.0.3.2
LinkLocalAddressing=no
I
for unit in systemd-networkd; do chroot "$tree" systemctl --quiet enable $unit; done
# Nothing that makes a guest under emulation slower than it has to be.
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer e2scrub_reap.service \
  systemd-networkd-wait-online.service getty@tty1.service; do
  chroot "$tree" systemctl --quiet mask $unit
done
mkdir -p "$tree/etc/systemd/system.conf.d" "$tree/srv/data" "$tree/srv/more"
printf '[Manager]\nShowStatus=no\nDefaultTimeoutStartSec=300\nDefaultTimeoutStopSec=120\nDefaultDeviceTimeoutSec=300\n' \
  >"$tree/etc/systemd/system.conf.d/slow.conf"
cat >"$tree/etc/systemd/system/ready.service" <<'I'
[Unit]
Description=Says that the guest is up
After=basic.target
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'echo "READY boot=$$(cat /proc/sys/kernel/random/boot_id)" >/dev/ttyS0'
[Install]
WantedBy=multi-user.target
I
chroot "$tree" systemctl --quiet enable ready.service
chroot "$tree" systemctl --quiet set-default multi-user.target
mkdir -p "$tree/etc/systemd/journald.conf.d"
printf '[Journal]\nForwardToConsole=no\nStorage=persistent\n' >"$tree/etc/systemd/journald.conf.d/keep.conf"
touch "$folder/complete"
