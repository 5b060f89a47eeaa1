// Lists the config maps of a namespace in pages of two.
import { k8s, kubeConfig, say } from './client.mjs';

const [namespace] = process.argv.slice(2);
const core = kubeConfig().makeApiClient(k8s.CoreV1Api);
let token;
do {
  const page = await core.listNamespacedConfigMap({ namespace, limit: 2, _continue: token });
  say(page.items.map((each) => each.metadata.name));
  token = page.metadata._continue;
} while (token);
