/**
 * Where the receiver's things are unless its configuration says otherwise. Apart from config.ts, so that commands which need a path only don't
 * load what reads configurations.
 */
export const RECEIVER_CONFIG_PATH = '/etc/afterimage/receiver.yaml';
export const DEFAULT_STATE_DIR = '/var/lib/afterimage-receiver';
export const DEFAULT_CONTROL_SOCKET = '/run/afterimage-receiver/control.sock';
