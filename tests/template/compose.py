"""Checks that docker-compose.yml, as JSON on stdin, has the services that it should, and that the new ones
have mutual TLS as the pair has it. Arguments: the names of the new services."""

import json
import sys

new = sys.argv[1:]
file = json.load(sys.stdin)
services = file["services"]
assert set(services) == {"certs", "service1", "service2", *new}, sorted(services)

certs = services["certs"]
issued = {name for flag, name in zip(certs["command"], certs["command"][1:]) if flag == "--service"}
assert issued == {"service1", "service2", *new}, issued
written = {mount["source"]: mount["target"] for mount in certs["volumes"]}
peers = services["service1"]["environment"]["MESH_ALLOWED_PEERS"].split(",")
assert set(peers) == {f"spiffe://mesh.local/{name}" for name in ["service2", *new]}, peers

pair = services["service2"]
for name in new:
    service = services[name]
    volume = f"certs-{name}"
    assert volume in file["volumes"], volume
    assert written[volume] == f"/certs/{name}", written
    [mount] = service["volumes"]
    assert (mount["source"], mount["target"], mount["read_only"]) == (volume, "/certs", True), mount
    # What `make images` builds.
    assert (service["image"], service["build"]["target"]) == (f"mesh-{name}", name), service["build"]
    environment = service["environment"]
    assert environment["MESH_TLS_DIR"] == "/certs", environment
    assert environment["MESH_ALLOWED_PEERS"] == "spiffe://mesh.local/service2", environment
    assert environment["SERVICE1_CHANNEL"] == "service1:50051", environment
    assert service["depends_on"] == pair["depends_on"], service["depends_on"]
    hardened = ["read_only", "mem_limit", "cap_drop", "security_opt", "restart", "stop_grace_period"]
    assert all(service[key] == pair[key] for key in hardened), service
