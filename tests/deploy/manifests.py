"""What deploy/kubernetes says against the schemas, against itself and against the running services.

No cluster runs here: that the pods are scheduled, the policies enforced and the certificates issued
is not shown."""

import math
import pathlib
import tempfile
import unittest

import kubernetes_validate
import yaml
from cloudcoil.models.cert_manager import v1 as cert_manager
from cloudcoil.models.prometheus_operator import v1 as prometheus_operator
from service import Service
from settings import SETTINGS, drain, run

OVERLAYS = sorted(path.name for path in pathlib.Path("deploy/kubernetes/overlays").iterdir())
SCHEMA_VERSION = "1.37"
OPERATORS = {"cert-manager.io/v1": cert_manager, "monitoring.coreos.com/v1": prometheus_operator}


class Overlay:
    def __init__(self, name):
        self.objects = list(yaml.safe_load_all(run("kubectl", "kustomize", f"deploy/kubernetes/overlays/{name}")))

    def all(self, kind):
        return [it for it in self.objects if it["kind"] == kind]

    def one(self, kind, name):
        [it] = [it for it in self.all(kind) if it["metadata"]["name"] == name]
        return it

    def pods(self, selector):
        """The Deployments whose pods a selector matches."""
        return [it for it in self.all("Deployment") if matches(selector, it["spec"]["template"]["metadata"]["labels"])]


def matches(selector, labels):
    assert selector.keys() <= {"matchLabels", "matchExpressions"}, selector
    assert all(it["operator"] == "In" for it in selector.get("matchExpressions", []))
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        labels.get(it["key"]) in it["values"] for it in selector.get("matchExpressions", [])
    )


def names(objects):
    return [it["metadata"]["name"] for it in objects]


def container(deployment):
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    return container


def variables(deployment):
    """The variables of a container, with what the kubelet fills in."""
    found = {}
    for it in container(deployment)["env"]:
        if "value" in it:
            found[it["name"]] = it["value"]
        else:
            resource = it["valueFrom"]["resourceFieldRef"]["resource"]
            assert resource == "requests.cpu", resource
            found[it["name"]] = str(math.ceil(float(container(deployment)["resources"]["requests"]["cpu"])))
    return found


def ports(deployment):
    return {it["name"]: it["containerPort"] for it in container(deployment)["ports"]}


class Checks:
    """The tests, for each self.overlay."""

    @classmethod
    def setUpClass(cls):
        cls.overlay = Overlay(cls.name)

    def test_each_object_fits_its_schema(self):
        for it in self.overlay.objects:
            if operator := OPERATORS.get(it["apiVersion"]):
                read = getattr(operator, it["kind"]).model_validate(it)
                # What the schema does not have would be missing.
                self.assertEqual(read.model_dump(mode="json", by_alias=True, exclude_unset=True), it)
            else:
                kubernetes_validate.validate(it, SCHEMA_VERSION, strict=True)

    def test_selectors_match_the_pods_that_they_are_for(self):
        for it in [it for kind in ["Deployment", "Service", "PodDisruptionBudget"] for it in self.overlay.all(kind)]:
            name, spec = it["metadata"]["name"], it["spec"]
            selector = {"matchLabels": spec["selector"]} if it["kind"] == "Service" else spec["selector"]
            self.assertEqual(names(self.overlay.pods(selector)), [name])
        for it in self.overlay.all("Deployment"):
            for spread in it["spec"]["template"]["spec"]["topologySpreadConstraints"]:
                self.assertEqual(self.overlay.pods(spread["labelSelector"]), [it])
        for it in self.overlay.all("HorizontalPodAutoscaler"):
            target = self.overlay.one("Deployment", it["spec"]["scaleTargetRef"]["name"])
            self.assertEqual(target["apiVersion"], it["spec"]["scaleTargetRef"]["apiVersion"])
            self.assertNotIn("replicas", target["spec"])
        for it in self.overlay.all("ServiceMonitor"):
            services = [its for its in self.overlay.all("Service") if matches(it["spec"]["selector"], its["metadata"]["labels"])]
            self.assertEqual(names(services), ["service1", "service2"])
            for endpoint in it["spec"]["endpoints"]:
                for service in services:
                    self.assertIn(endpoint["port"], [port["name"] for port in service["spec"]["ports"]])

    def test_ports_have_a_name_that_the_pods_know_and_the_number_that_the_service_listens_on(self):
        for it in self.overlay.all("Service"):
            [pods] = self.overlay.pods({"matchLabels": it["spec"]["selector"]})
            for port in it["spec"]["ports"]:
                self.assertIn(port["targetPort"], ports(pods))
        for it in self.overlay.all("Deployment"):
            defaults = SETTINGS[it["metadata"]["name"]]
            for name, number in ports(it).items():
                variable = {"http": "PORT", "grpc": "GRPC_PORT", "admin": "ADMIN_PORT"}[name]
                self.assertEqual(variables(it).get(variable, defaults[variable]), str(number))
            self.assertEqual(variables(it)["ADMIN_HOST"], "0.0.0.0")
            self.assertEqual(variables(it).get("REFLECTION"), "off" if "grpc" in ports(it) else None)

    def test_only_service2_reaches_grpc_and_only_monitoring_the_metrics(self):
        reached = {}
        for policy in self.overlay.all("NetworkPolicy"):
            self.assertEqual(policy["spec"]["policyTypes"], ["Ingress"])
            pods = self.overlay.pods(policy["spec"]["podSelector"])
            self.assertTrue(pods)
            for rule in policy["spec"]["ingress"]:
                for port in rule["ports"]:
                    for its in pods:
                        self.assertIn(port["port"], ports(its))
                        place = its["metadata"]["name"], port["port"]
                        reached.setdefault(place, []).extend(rule.get("from", ["everyone"]))
        monitoring = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
        [source] = reached.pop(("service1", "grpc"))
        self.assertEqual(list(source), ["podSelector"])
        self.assertEqual(names(self.overlay.pods(source["podSelector"])), ["service2"])
        self.assertEqual(reached.pop(("service2", "http")), ["everyone"])
        for service in SETTINGS:
            self.assertIn(reached.pop((service, "admin"), None), [None, [monitoring]])
        self.assertEqual(reached, {})

    def test_pods_are_restricted(self):
        for it in self.overlay.all("Namespace"):
            self.assertEqual(it["metadata"]["labels"]["pod-security.kubernetes.io/enforce"], "restricted")
            self.assertEqual({its["metadata"].get("namespace") for its in self.overlay.objects if its != it}, {it["metadata"]["name"]})
        for it in self.overlay.all("Deployment"):
            pod, security = it["spec"]["template"]["spec"], container(it)["securityContext"]
            self.assertTrue(pod["securityContext"]["runAsNonRoot"])
            self.assertEqual(pod["securityContext"]["seccompProfile"], {"type": "RuntimeDefault"})
            self.assertFalse(pod["automountServiceAccountToken"])
            self.assertFalse(security["allowPrivilegeEscalation"])
            self.assertTrue(security["readOnlyRootFilesystem"])
            self.assertEqual(security["capabilities"], {"drop": ["ALL"]})
            self.assertFalse({"hostNetwork", "hostPID", "hostIPC"} & pod.keys())
            self.assertLessEqual({next(iter(its.keys() - {"name"})) for its in pod.get("volumes", [])}, {"secret"})
            resources = container(it)["resources"]
            self.assertIn("memory", resources["limits"])
            # A limit of CPU would stop workers; their number comes from the request.
            self.assertNotIn("cpu", resources["limits"])
            self.assertIn("WORKERS", variables(it))

    def test_images_have_a_tag_of_their_own(self):
        for it in self.overlay.all("Deployment"):
            image, _, tag = container(it)["image"].partition(":")
            self.assertTrue(image.endswith(f"mesh-{it['metadata']['name']}"))
            self.assertNotIn(tag, ["", "latest"])

    def test_updates_start_a_pod_before_they_end_one_and_wait_for_its_drain(self):
        for it in self.overlay.all("Deployment"):
            self.assertEqual(it["spec"]["strategy"]["rollingUpdate"], {"maxSurge": 1, "maxUnavailable": 0})
            grace = it["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
            self.assertGreater(grace, drain(it["metadata"]["name"], variables(it)))
        self.assertEqual(variables(self.overlay.one("Deployment", "service2"))["DRAIN_DELAY"], "5s")

    def test_every_variable_is_a_setting(self):
        for it in self.overlay.all("Deployment"):
            self.assertLessEqual(variables(it).keys(), SETTINGS[it["metadata"]["name"]].keys())

    def test_the_services_run_with_these_variables_and_answer_the_probes(self):
        with tempfile.TemporaryDirectory() as directory:
            self.run_pair(directory)

    def run_pair(self, directory):
        run("target/debug/certs", "--dir", directory, "--service", "service1", "--service", "service2")
        pair = {name: self.overlay.one("Deployment", name) for name in ["service1", "service2"]}
        settings = {name: variables(it) for name, it in pair.items()}
        # Each client names the server as its certificate and its Service do.
        host, _, port = settings["service2"]["SERVICE1_CHANNEL"].rpartition(":")
        service = self.overlay.one("Service", host)
        self.assertEqual(service["spec"]["clusterIP"], "None")
        self.assertIn(int(port), [its["port"] for its in service["spec"]["ports"]])
        for name, its in settings.items():
            if "MESH_TLS_DIR" in its:
                certificate = self.overlay.one("Certificate", name)["spec"]
                self.assertIn(name, certificate["dnsNames"])
                # `certs` issues the same identity, so the allowed peers are tried below.
                self.assertEqual(certificate["uris"], [f"spiffe://mesh.local/{name}"])
                self.assertEqual(certificate["usages"], ["server auth", "client auth"])
                [volume] = pair[name]["spec"]["template"]["spec"]["volumes"]
                self.assertEqual(volume["secret"]["secretName"], certificate["secretName"])
                [mount] = container(pair[name])["volumeMounts"]
                self.assertEqual((mount["name"], mount["mountPath"]), (volume["name"], its["MESH_TLS_DIR"]))
                self.assertNotIn("subPath", mount)
                its["MESH_TLS_DIR"] = f"{directory}/{name}"
        service1 = Service("service1", **settings["service1"])
        self.addCleanup(service1.kill)
        port = service1.address("grpc").rpartition(":")[2]
        service2 = Service("service2", **settings["service2"] | {"SERVICE1_CHANNEL": f"localhost:{port}"})
        self.addCleanup(service2.stop)
        service2.wait_until_ready()
        for name, running in {"service1": service1, "service2": service2}.items():
            for probe in ["startupProbe", "livenessProbe", "readinessProbe"]:
                get = container(pair[name])[probe]["httpGet"]
                self.assertEqual(get["port"], "admin")
                self.assertTrue(running.get(get["path"], "admin"))
        self.assertEqual(service2.say_hello("kubernetes", "an-id"), (200, "Hello, KUBERNETES!", "an-id"))
        # A replica that has not found service1 yet is alive, but not ready.
        probes = container(pair["service2"])
        ready, alive = (probes[f"{kind}Probe"]["httpGet"]["path"] for kind in ["readiness", "liveness"])
        alone = Service("service2", **settings["service2"] | {"SERVICE1_CHANNEL": "localhost:1"})
        self.addCleanup(alone.stop)
        self.assertEqual((alone.status(ready, "admin"), alone.status(alive, "admin")), (503, 200))
        # Neither changes when service1 goes later: all replicas of service2 would be taken out at once.
        service1.stop()
        service2.line(action="replica", status="draining")
        self.assertEqual((service2.status(ready, "admin"), service2.status(alive, "admin")), (200, 200))


for overlay in OVERLAYS:
    globals()[overlay] = type(overlay, (Checks, unittest.TestCase), {"name": overlay})
