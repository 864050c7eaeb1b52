"""Checks what the rendered manifests promise; reads them from standard input.

Each fact is a function of the documents by (kind, name); its docstring is the
promise. Prints one line per fact that does not hold, and a closing line.
"""

import base64
import sys

import yaml


def pod(documents, kind, name):
    return documents[kind, name]["spec"]["template"]["spec"]


def pods(documents):
    return [d["spec"]["template"]["spec"] for d in documents.values() if "template" in d.get("spec", {})]


def containers(spec):
    return spec.get("initContainers", []) + spec["containers"]


def user(spec, container):
    return container.get("securityContext", {}).get("runAsUser", spec["securityContext"]["runAsUser"])


def environment(container):
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container["env"]}


def secret_keys(spec):
    return [i["key"] for v in spec["volumes"] if "secret" in v for i in v["secret"]["items"]]


def secret(documents):
    return next(d for (kind, _), d in documents.items() if kind == "Secret")


def agent(documents):
    return pod(documents, "Deployment", "logger")["initContainers"][0]


def sidecar_is_native(documents):
    """the agent is a native sidecar"""
    return agent(documents)["restartPolicy"] == "Always"


def same_user(documents):
    """agent and logger run as the same user, not root"""
    spec = pod(documents, "Deployment", "logger")
    users = {user(spec, container) for container in containers(spec)}
    return len(users) == 1 and 0 not in users


def shared_processes(documents):
    """agent and logger share the process namespace"""
    return pod(documents, "Deployment", "logger").get("shareProcessNamespace") is True


def no_service_links(documents):
    """no pod gets the variables of Services"""
    return all(spec.get("enableServiceLinks") is False for spec in pods(documents))


def restricted(documents):
    """every container fits the restricted level: no capability, no root, no escalation, read-only root"""
    return all(
        spec["securityContext"]["runAsNonRoot"] is True
        and spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        and container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        and container["securityContext"]["allowPrivilegeEscalation"] is False
        and container["securityContext"]["readOnlyRootFilesystem"] is True
        and container["securityContext"].get("privileged") is None
        for spec in pods(documents)
        for container in containers(spec)
    )


def labels_from_the_pod(documents):
    """the agent's labels come from the pod it is in"""
    fields = environment(agent(documents))
    return fields["TEPUI__AGENT__LABELS__POD"] == {"fieldRef": {"fieldPath": "metadata.name"}} and fields[
        "TEPUI__AGENT__LABELS__NODE"
    ] == {"fieldRef": {"fieldPath": "spec.nodeName"}}


def only_our_variables(documents):
    """every variable is one of the product's"""
    return all(
        name.startswith(("TEPUI__AGENT__", "TEPUI__COLLECTOR__"))
        for spec in pods(documents)
        for container in containers(spec)
        if "env" in container
        for name in environment(container)
    )


def agent_finds_the_collector(documents):
    """the agent's URL is the collector's Service and port"""
    service = documents["Service", "tepui-collector"]
    url = f"http://{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
    return environment(agent(documents))["TEPUI__AGENT__COLLECTOR__URL"] == url


def store_on_a_volume(documents):
    """the collector is one replica with its data on a claimed volume"""
    spec = documents["StatefulSet", "tepui-collector"]["spec"]
    collector = spec["template"]["spec"]["containers"][0]
    claim = spec["volumeClaimTemplates"][0]["metadata"]["name"]
    mounts = {mount["name"]: mount["mountPath"] for mount in collector["volumeMounts"]}
    return spec["replicas"] == 1 and environment(collector)["TEPUI__COLLECTOR__DATA"].startswith(mounts[claim] + "/")


def headless_service(documents):
    """the StatefulSet's Service exists and is headless"""
    name = documents["StatefulSet", "tepui-collector"]["spec"]["serviceName"]
    return documents["Service", name]["spec"]["clusterIP"] == "None"


def tokens_are_shared(documents):
    """one Secret serves both ends, and the agent gets no token but its own"""
    data = {key: base64.b64decode(value).decode() for key, value in secret(documents)["data"].items()}
    name = secret(documents)["metadata"]["name"]
    specs = [pod(documents, "Deployment", "logger"), pod(documents, "StatefulSet", "tepui-collector")]
    mounted = {v["secret"]["secretName"] for spec in specs for v in spec["volumes"] if "secret" in v}
    lines = [line.split() for line in data["tokens.txt"].splitlines()]
    return (
        mounted == {name}
        and secret_keys(specs[0]) == ["agent-token"]
        and secret_keys(specs[1]) == ["tokens.txt"]
        and [role for role, _, _ in lines] == ["agent", "reader", "admin"]
        and lines[0][2] == data["agent-token"].strip()
        and len({token for _, _, token in lines}) == 3
    )


FACTS = [
    sidecar_is_native,
    same_user,
    shared_processes,
    no_service_links,
    restricted,
    labels_from_the_pod,
    only_our_variables,
    agent_finds_the_collector,
    store_on_a_volume,
    headless_service,
    tokens_are_shared,
]


def main():
    documents = {(d["kind"], d["metadata"]["name"]): d for d in yaml.safe_load_all(sys.stdin) if d}
    failed = 0
    for fact in FACTS:
        try:
            holds = fact(documents)
        except (KeyError, IndexError, StopIteration) as error:
            holds = False
            print(f"{fact.__name__}: {error!r}")
        if not holds:
            failed += 1
            print(f"does not hold: {fact.__doc__}")
    print(f"facts: {len(FACTS) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
