// Says each event of an informer of config maps, until it is stopped.
import { k8s, kubeConfig, say } from './client.mjs';

const [namespace] = process.argv.slice(2);
const config = kubeConfig();
const core = config.makeApiClient(k8s.CoreV1Api);
const list = () => core.listNamespacedConfigMap({ namespace });
const informer = k8s.makeInformer(config, `/api/v1/namespaces/${namespace}/configmaps`, list);
for (const event of ['add', 'update', 'delete']) {
  informer.on(event, (each) => say([event, each.metadata.name, each.data ?? null]));
}
informer.on('error', (error) => {
  say(['error', String(error)]);
  // As the client's own examples do: the informer lists and watches again.
  setTimeout(() => informer.start(), 50);
});
informer.on('connect', () => say(['connect']));
await informer.start();
