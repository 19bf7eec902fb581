// A minimal agent in a process of its own, for tests that stop it: it connects with the credentials in argv and answers pings.
import { WebSocket } from 'ws';

const credentials = JSON.parse(process.argv[2] ?? '{}');
const ws = new WebSocket(`wss://${credentials.receiver}/v1/session`, {
  ca: credentials.caPem,
  cert: credentials.certificatePem,
  key: credentials.keyPem,
  servername: 'afterimage-receiver',
});
ws.on('error', () => process.exit(1));
ws.on('close', () => process.exit(0));
