#!/usr/bin/env bash
# Runs a real S3 server (one monitor, one disk daemon in memory and the S3 gateway of Ceph) on 127.0.0.1 until its standard input ends, and
# with it everything: processes and data live in namespaces of their own. Arguments: the installed root (install.sh) and the first of three
# free ports, which is the gateway's. Prints "ready", then answers each line of input, a command, with "done":
#   stall, resume   stops and continues the disk daemon: every request hangs in between
#   kill, start     kills the gateway in whatever it is doing; starts it again
set -euo pipefail
root=$1 port=$2

if [ "${3:-}" != inside ]; then
  exec unshare -m -p --fork --kill-child=SIGKILL "$0" "$root" "$port" inside
fi

mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mkdir -p "$root/data"
mount -t tmpfs tmpfs "$root/data"
mount -t tmpfs tmpfs "$root/tmp"
fsid=$(cat /proc/sys/kernel/random/uuid)
monitor="[v2:127.0.0.1:$((port + 1)),v1:127.0.0.1:$((port + 2))]"
mkdir -p "$root"/data/{mon,osd,run,log}
cat > "$root/data/ceph.conf" <<I
[global]
fsid = $fsid
mon host = $monitor
auth cluster required = none
auth service required = none
auth client required = none
# The gateway would hang for 300 s in the default mode, which needs authentication.
ms mon client mode = crc
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd crush chooseleaf type = 0
mon allow pool size one = true
mon warn on pool no redundancy = false
mon max pg per osd = 2000
public network = 127.0.0.0/8
cluster network = 127.0.0.0/8
run dir = /data/run
admin socket = /data/run/\$name.asok
pid file = /data/run/\$name.pid
log file = /data/log/\$name.log
crash dir = /data/log
[osd]
osd objectstore = memstore
memstore device bytes = 3221225472
osd data = /data/osd
osd op num shards = 2
[mon]
mon data = /data/mon
[client.rgw.a]
rgw frontends = beast endpoint=127.0.0.1:$port
rgw dns name = 127.0.0.1
rgw enable usage log = false
rgw enable ops log = false
rgw thread pool size = 32
# Uploads in parts of the size that ours have; the server's own default would do as well.
rgw multipart min part size = 5242880
I
run() { chroot "$root" env CEPH_CONF=/data/ceph.conf "$@" < /dev/null > /dev/null 2>> "$root/data/log/start.log"; }
failed() { tail -n 15 "$root/data/log/start.log" >&2; }
trap failed ERR

listening() { (exec 3<> "/dev/tcp/127.0.0.1/$port") 2> /dev/null; }
start_gateway() {
  run timeout 60 radosgw -n client.rgw.a
  for ((i = 0; i < 300; i++)); do ! listening || return 0; sleep 0.1; done
  return 1
}
# The monitor's address, as a map of one, where the monitor looks for it at its first start.
run monmaptool --create --fsid "$fsid" --addv a "$monitor" /data/monmap
run ceph-mon --mkfs -i a --monmap /data/monmap
run ceph-mon -i a --public-addrv "$monitor"
osd=$(cat /proc/sys/kernel/random/uuid)
run timeout 30 ceph osd new "$osd" 0
run ceph-osd -i 0 --mkfs --osd-uuid "$osd"
run ceph-osd -i 0
run timeout 10 ceph osd crush add osd.0 1 root=default host=h
start_gateway
# Two accounts: the owner of the buckets, and one that has what a bucket's policy gives it.
run radosgw-admin -n client.rgw.a user create --uid=owner --display-name=owner --access-key=OWNERKEY --secret=owner-secret
run radosgw-admin -n client.rgw.a user create --uid=writer --display-name=writer --access-key=WRITERKEY --secret=writer-secret
echo ready

# As numbered in this namespace.
pid() { chroot "$root" pgrep -f "^$1 " | head -n 1; }
while read -r command; do
  case $command in
    stall) chroot "$root" kill -STOP "$(pid ceph-osd)" ;;
    resume) chroot "$root" kill -CONT "$(pid ceph-osd)" ;;
    kill)
      chroot "$root" kill -KILL "$(pid radosgw)"
      for ((i = 0; i < 100; i++)); do listening || break; sleep 0.05; done
      ;;
    start) start_gateway ;;
  esac
  echo done
done
