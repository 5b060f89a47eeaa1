// What the tests need of a client: one for the address in KPROXY_URL, without any credential.
// It takes plain HTTP only with skipTLSVerify.
import * as k8s from '@kubernetes/client-node';

export { k8s };

export function kubeConfig() {
  const config = new k8s.KubeConfig();
  config.loadFromOptions({
    clusters: [{ name: 'kproxy', server: process.env.KPROXY_URL, skipTLSVerify: true }],
    users: [{ name: 'nobody' }],
    contexts: [{ name: 'kproxy', cluster: 'kproxy', user: 'nobody' }],
    currentContext: 'kproxy',
  });
  return config;
}

export function say(value) {
  process.stdout.write(JSON.stringify(value) + '\n');
}
