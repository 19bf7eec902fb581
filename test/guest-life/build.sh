#!/usr/bin/env bash
# build.sh FOLDER KERNEL_FOLDER: makes the root disk of a Debian guest with systemd, LVM and multipath (FOLDER/root.img, ext4), unless it is there. KERNEL_FOLDER is
# what test/guest/build.sh made: the guest is started with that kernel and initramfs. Needs root; some minutes once, mostly debootstrap.
set -euo pipefail
folder=$1 kernel=$2
mkdir -p "$folder"
exec 9>"$folder/lock"
flock 9
[ ! -e "$folder/complete" ] || exit 0
tree=$folder/tree
rm -rf "$tree"

release=$(. /etc/os-release && echo "$VERSION_CODENAME")
packages=systemd,systemd-sysv,udev,dbus,iproute2,procps,kmod,e2fsprogs,xfsprogs,lvm2,multipath-tools,qemu-guest-agent,libstdc++6
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
# Those of sounds, graphics and networks of all the world are of no use here; of SCSI, what a disk on virtio needs.
rm -rf "$tree/lib/modules/$version/kernel"/{sound,drivers/{gpu,infiniband,media,hid,usb,net/ethernet}}
find "$tree/lib/modules/$version/kernel/drivers/scsi" -name '*.ko' \
  -not -name scsi_mod.ko -not -name scsi_common.ko -not -name sd_mod.ko -not -name virtio_scsi.ko -not -path '*/device_handler/*' -delete
chroot "$tree" depmod "$version"

ln -s lib/systemd/systemd "$tree/init" # what the initramfs hands over to
echo source >"$tree/etc/hostname"
printf '127.0.0.1 localhost source\n' >"$tree/etc/hosts"
# Its boots are those of a machine that has been up before: a first one makes presets and hardware databases.
echo 0d0d0d0d111142228333000000000001 >"$tree/etc/machine-id"
touch "$tree/etc/.updated" "$tree/var/.updated"
echo '/dev/vda / ext4 errors=remount-ro 0 0' >"$tree/etc/fstab"
# Two commands instead of a daemon, and names that stay.
ln -s /dev/null "$tree/etc/systemd/network/99-default.link"
cat >"$tree/usr/local/sbin/net-up" <<'I'
#!/bin/sh
until at=$(grep -l 52:54:00:00:00:99 /sys/class/net/*/address); do sleep 0.2; done
nic=$(basename "$(dirname "$at")")
ip address add 10.0.3.15/24 dev "$nic" && ip link set "$nic" up && ip route add default via 10.0.3.2
I
chmod 755 "$tree/usr/local/sbin/net-up"
cat >"$tree/etc/systemd/system/net-up.service" <<'I'
[Unit]
Description=The network to the host
After=systemd-udev-trigger.service
Before=network.target network-online.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/sbin/net-up
[Install]
WantedBy=multi-user.target network-online.target
I
chroot "$tree" systemctl --quiet enable net-up.service
# Nothing that makes a guest under emulation slower than it has to be. Who wants multipath starts it.
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer e2scrub_reap.service systemd-tmpfiles-clean.timer \
  getty@tty1.service serial-getty@ttyS0.service systemd-logind.service systemd-user-sessions.service systemd-update-utmp.service \
  systemd-update-utmp-runlevel.service systemd-pstore.service lvm2-monitor.service \
  dev-hugepages.mount dev-mqueue.mount sys-fs-fuse-connections.mount sys-kernel-config.mount \
  modprobe@{drm,configfs,efi_pstore,fuse,loop}.service; do
  chroot "$tree" systemctl --quiet mask "$unit"
done
for unit in multipathd.service multipathd.socket multipath-tools.service systemd-networkd.service; do
  chroot "$tree" systemctl --quiet disable "$unit" 2>/dev/null || true
done
mkdir -p "$tree/etc/systemd/system.conf.d" "$tree/srv/data" "$tree/srv/more"
printf '[Manager]\nShowStatus=no\nDefaultTimeoutStartSec=300\nDefaultTimeoutStopSec=120\nDefaultDeviceTimeoutSec=300\n' \
  >"$tree/etc/systemd/system.conf.d/slow.conf"
# The product's own limits are meant for machines, not for emulated ones on a busy host.
for unit in afterimage-arm afterimage-close; do
  mkdir -p "$tree/etc/systemd/system/$unit.service.d"
  printf '[Service]\nTimeoutStartSec=300\n' >"$tree/etc/systemd/system/$unit.service.d/slow.conf"
done
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

# Copied for each guest: much faster than making a filesystem each time.
rm -f "$folder/root.img"
mkfs.ext4 -q -F -L root -m 0 -E lazy_itable_init=1,lazy_journal_init=1,root_owner=0:0 -d "$tree" "$folder/root.img" 1400M
rm -rf "$tree"
touch "$folder/complete"
