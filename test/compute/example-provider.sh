#!/bin/sh
# Example of a program for provider `command` (receiver/failover/compute/README.md): its "guest" is a sleeping process. It gets the action as its
# last argument, the launch as JSON on stdin, the most important of it in AFTERIMAGE_*.
set -eu
folder=$AFTERIMAGE_FOLDER
pidfile=$folder/guest.pid
running() { [ -s "$pidfile" ] && kill -0 "$(cat "$pidfile")" 2>/dev/null; }
action=$1
case $action in
check) # problems on stdout, one a line, and an exit code other than 0
  command -v setsid >/dev/null || { echo 'setsid is missing: install util-linux'; exit 1; }
  ;;
start) # must bear being run again
  running && exit 0
  cat >"$folder/launch.json" # disks[].uri is what a real one would attach
  setsid sleep 600 </dev/null >/dev/null 2>&1 &
  echo $! >"$pidfile"
  echo "started $AFTERIMAGE_MACHINE_NAME at point $AFTERIMAGE_POINT (test: $AFTERIMAGE_TEST)"
  ;;
state) # one JSON object on stdout, all else on stderr
  if running; then echo '{"running":true,"detail":"sleeping"}'; else echo '{"running":false}'; fi
  ;;
shutdown) # ends with 0 when the guest has powered off by itself; AFTERIMAGE_TIMEOUT_SECONDS is the time that there is
  kill "$(cat "$pidfile")"
  while running; do sleep 0.1; done
  ;;
kill) # ends with 0 when the guest writes no more, for certain
  ! running || kill -9 "$(cat "$pidfile")"
  while running; do sleep 0.1; done
  ;;
cleanup)
  rm -f "$pidfile" "$folder/launch.json"
  ;;
*)
  echo "unknown action $action" >&2
  exit 2
  ;;
esac
