// What the tests need of a client: one for the kubeconfig in KUBECONFIG, which is taken as it is.
import * as k8s from '@kubernetes/client-node';

export { k8s };

export function kubeConfig() {
  const config = new k8s.KubeConfig();
  config.loadFromDefault();
  return config;
}

export function say(value) {
  process.stdout.write(JSON.stringify(value) + '\n');
}
