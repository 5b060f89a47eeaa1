// Makes, changes, and deletes a config map, and says what becomes of it.
import { k8s, kubeConfig, say } from './client.mjs';

const [namespace] = process.argv.slice(2);
const core = kubeConfig().makeApiClient(k8s.CoreV1Api);
const name = 'it';

const made = await core.createNamespacedConfigMap({ namespace, body: { metadata: { name }, data: { a: '1' } } });
const merge = k8s.setHeaderOptions('Content-Type', k8s.PatchStrategy.MergePatch);
const patched = await core.patchNamespacedConfigMap({ name, namespace, body: { data: { b: '2' } } }, merge);
say(patched.data);
try {
  await core.replaceNamespacedConfigMap({ name, namespace, body: { ...made, data: {} } });
} catch (error) {
  say(error.code);
}
await core.deleteNamespacedConfigMap({ name, namespace });
try {
  await core.readNamespacedConfigMap({ name, namespace });
} catch (error) {
  say(error.code);
}
