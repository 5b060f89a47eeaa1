// Runs a command in a pod, with the standard input of this program.
import { Readable } from 'node:stream';
import { k8s, kubeConfig, say } from './client.mjs';

const [namespace, pod, container, ...command] = process.argv.slice(2);
const exec = new k8s.Exec(kubeConfig());
const input = process.env.KPROXY_INPUT;
const stdin = input ? Readable.from([input]) : null;
try {
  const socket = await exec.exec(
    namespace, pod, container, command, process.stdout, process.stderr, stdin, false,
    (status) => say(status),
  );
  socket.on('close', () => process.exit(0));
} catch (error) {
  say(String(error.message ?? error));
  process.exit(1);
}
