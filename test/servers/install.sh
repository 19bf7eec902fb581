#!/usr/bin/env bash
# What the object stores of the tests are made of, kept outside of the repository: a Debian root with Ceph's S3 gateway (Debian 13's: the
# older one refuses streams with a checksum at their end), and the emulator of Azure Blob. About a minute and 1 GB at the first call.
set -euo pipefail
cache=${AFTERIMAGE_TEST_CACHE:-/var/cache/afterimage-test}
azurite=azurite@3.35.0 # the last that runs on Node 20
mkdir -p "$cache"
# Two test runs on one host build it once.
exec 9> "$cache/lock"
flock 9

if [ ! -d "$cache/ceph" ]; then
  root=$cache/ceph.part
  rm -rf --one-file-system "$root"
  # The mirror that this host's own apt uses.
  mirror=$(apt-get indextargets --format '$(REPO_URI) $(COMPONENT)' 'Created-By: Packages' | awk '$2 == "main" { print $1; exit }')
  debootstrap --variant=minbase trixie "$root" "$mirror" > "$cache/ceph.log" 2>&1 || { tail -n 5 "$cache/ceph.log" >&2; exit 1; }
  # No daemon starts while it is installed.
  printf '#!/bin/sh\nexit 101\n' > "$root/usr/sbin/policy-rc.d"
  chmod +x "$root/usr/sbin/policy-rc.d"
  # Mounts and processes live in namespaces of their own and end with them.
  unshare -m -p --fork --kill-child bash -euc '
    mount -t proc proc "$1/proc"
    exec chroot "$1" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
      ceph-mon ceph-osd radosgw ceph-common procps' _ "$root" >> "$cache/ceph.log" 2>&1 || { tail -n 5 "$cache/ceph.log" >&2; exit 1; }
  rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
  mv "$root" "$cache/ceph"
fi

if [ ! -d "$cache/azurite" ]; then
  rm -rf "$cache/azurite.part"
  mkdir "$cache/azurite.part"
  echo '{"private":true}' > "$cache/azurite.part/package.json"
  (cd "$cache/azurite.part" && npm install --no-audit --no-fund --silent --omit=optional "$azurite" > "$cache/azurite.log" 2>&1) ||
    { tail -n 5 "$cache/azurite.log" >&2; exit 1; }
  mv "$cache/azurite.part" "$cache/azurite"
fi
