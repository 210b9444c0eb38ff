"""`kerazoo deploy`: its files fit the published schemas and the server's messages, and all appear or none does."""

import base64
import json
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import quote, unquote

import jsonschema
import pytest
import yaml
from conftest import free_ports
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

import kerazoo
from kerazoo.cli import app as cli
from kerazoo.errors import InputError, RunError
from kerazoo.serving.deploy import writing

SCHEMAS = Path(__file__).parent / "schemas"
ODD = "Möbel \"neu\" $HOME 'a\\b' #1: {x}"
URI = "s3://models/flowers"
TARGETS = {"docker": {}, "kubernetes": {}, "kserve": {"storage_uri": URI}}
each_target = pytest.mark.parametrize("to", TARGETS)


def make_export(name="flowers", versions=(1, 2), mebibytes=1):
    """saved_models/NAME with what `deploy` reads of an export."""
    folder = Path("saved_models", name)
    for version in versions:
        (folder / str(version) / "variables").mkdir(parents=True)
        (folder / str(version) / "assets.extra").mkdir()
        (folder / str(version) / "saved_model.pb").write_bytes(b"graph")
        (folder / str(version) / "variables" / "variables.data-00000-of-00001").write_bytes(bytes(mebibytes << 20))
        (folder / str(version) / "assets.extra" / "passport.json").write_text('{"class_names": ["rose", "tulip"]}')
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with the export saved_models/flowers, versions 1 and 2."""
    monkeypatch.chdir(tmp_path)
    make_export()
    return tmp_path


def deployed(to, export="flowers", **words):
    """{name: text} of the files that are written."""
    files = kerazoo.deploy(export, to=to, **TARGETS[to], **words)
    folder = files[-1].parent
    return {path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8") for path in files}


def check(schema, document):
    """Raise ValidationError unless `document` fits the schema of that name."""
    schema = json.loads((SCHEMAS / f"{schema}.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(document)


def by_kind(text):
    documents = list(yaml.safe_load_all(text))
    assert len({document["kind"] for document in documents}) == len(documents)
    return {document["kind"]: document for document in documents}


def leaves(value):
    """Every mapping within `value`."""
    if isinstance(value, dict):
        yield value
    for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from leaves(child)


# TensorFlow Serving's messages that its Python package lacks: session_bundle_config.proto, monitoring_config.proto
INT, BOOL, TEXT = (getattr(descriptor_pb2.FieldDescriptorProto, f"TYPE_{name}") for name in ("INT64", "BOOL", "STRING"))
BATCHING = {
    "max_batch_size": (1, "Int64Value"), "batch_timeout_micros": (2, "Int64Value"),
    "max_enqueued_batches": (3, "Int64Value"), "num_batch_threads": (4, "Int64Value"),
    "thread_pool_name": (5, "StringValue"), "allowed_batch_sizes": (6, INT), "pad_variable_length_inputs": (7, BOOL),
    "enable_large_batch_splitting": (8, "BoolValue"), "max_execution_batch_size": (9, "Int64Value"),
}  # fmt: skip
PROMETHEUS = {"enable": (1, BOOL), "path": (2, TEXT)}


def message(fields):
    """A message class with {name: (number, type)}, where the name of a type is that of a wrapper."""
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    file = descriptor_pb2.FileDescriptorProto(
        name="m.proto", syntax="proto3", dependency=["google/protobuf/wrappers.proto"]
    )
    made = file.message_type.add(name="M")
    for name, (number, kind) in fields.items():
        field = made.field.add(name=name, number=number, label=descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL)
        if isinstance(kind, str):
            field.type = descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE
            field.type_name = f".google.protobuf.{kind}"
        else:
            field.type = kind
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("M"))


def test_compose_fits_the_specification_and_gives_no_rights(here):
    for words in ({}, {"cpus": 2, "overwrite": True}):
        compose = yaml.safe_load(deployed("docker", **words)["compose.yaml"])
        check("compose", compose)
    (service,) = compose["services"].values()
    expected = {
        "image": "tensorflow/serving:2.20.0", "read_only": True, "cap_drop": ["ALL"], "user": "1000:1000",
        "security_opt": ["no-new-privileges:true"], "mem_limit": "1280m", "memswap_limit": "1280m", "cpus": 2,
        "tmpfs": ["/tmp"], "restart": "unless-stopped",
    }  # fmt: skip
    assert service | expected == service
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    folder = here / "deploy" / "flowers" / "docker"
    mounts = {mount["target"]: mount for mount in service["volumes"]}
    assert all(mount["read_only"] for mount in mounts.values())
    assert (folder / mounts["/models/export"]["source"]).resolve() == here / "saved_models" / "flowers"
    names = [flag.rpartition("/")[2] for flag in service["command"] if "/config/" in flag]
    assert sorted(names) == sorted(path.name for path in (folder / mounts["/config"]["source"]).iterdir())


def test_kubernetes_objects_fit_their_schemas_and_each_other(here):
    for words in ({}, {"cpus": 2, "claim": "shared.models", "overwrite": True}):
        found = by_kind(deployed("kubernetes", **words)["deployment.yaml"])
        for document in found.values():
            check("kubernetes", document)
    assert set(found) == {"ConfigMap", "Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget"}
    assert {document["metadata"]["name"] for document in found.values()} == {"flowers"}
    template = found["Deployment"]["spec"]["template"]
    (container,) = template["spec"]["containers"]
    labels = template["metadata"]["labels"]
    assert found["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert found["Service"]["spec"]["selector"] == labels
    assert found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    scaled = found["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (scaled["kind"], scaled["name"], scaled["apiVersion"]) == ("Deployment", "flowers", "apps/v1")
    volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
    assert volumes["config"]["configMap"]["name"] == "flowers"
    assert volumes["export"]["persistentVolumeClaim"] == {"claimName": "shared.models", "readOnly": True}
    names = {port["name"] for port in container["ports"]}
    assert {port["targetPort"] for port in found["Service"]["spec"]["ports"]} == names
    assert {probe["httpGet"]["port"] for name, probe in container.items() if name.endswith("Probe")} <= names
    assert container["resources"] == {  # the autoscaler needs a request
        "requests": {"cpu": "2", "memory": "1280Mi"},
        "limits": {"cpu": "2", "memory": "1280Mi"},
    }
    flags = {flag.rpartition("/")[2] for flag in container["args"] if "/config/" in flag}
    assert flags == set(found["ConfigMap"]["data"])


def test_kubernetes_pods_have_no_rights(here):
    pod = by_kind(deployed("kubernetes")["deployment.yaml"])["Deployment"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    assert "cpu" not in container["resources"]["limits"]


def test_a_changed_config_starts_new_pods(here):
    found = [
        by_kind(deployed("kubernetes", **words)["deployment.yaml"]) for words in ({}, {"cpus": 2, "overwrite": True})
    ]
    one, other = (each["Deployment"]["spec"]["template"]["metadata"]["annotations"] for each in found)
    assert one["checksum/config"] != other["checksum/config"]


def test_an_inference_service_names_its_runtime_and_version(here):
    service = yaml.safe_load(deployed("kserve", cpus=2, memory="2Gi")["inferenceservice.yaml"])
    check("inferenceservice", service)
    assert service["metadata"]["name"] == "flowers"
    model = service["spec"]["predictor"]["model"]
    assert model | {"runtime": "kserve-tensorflow-serving", "runtimeVersion": "2.20.0", "storageUri": URI} == model
    assert model["resources"]["limits"] == {"cpu": "2", "memory": "2048Mi"}


@each_target
def test_a_misspelt_key_fails_its_schema(here, to):
    """In every mapping of our files whose keys are fixed; labels and data may have any."""
    (name, text), *_ = deployed(to).items()
    schema = {"compose.yaml": "compose", "deployment.yaml": "kubernetes"}.get(name, "inferenceservice")
    free = ("labels", "matchLabels", "annotations", "data", "selector", "requests", "limits", "services")
    for document in yaml.safe_load_all(text):
        open_ones = [id(value) for each in leaves(document) for key, value in each.items() if key in free]
        for mapping in leaves(document):
            if id(mapping) in open_ones and "matchLabels" not in mapping:
                continue
            mapping["misspelt"] = 1
            with pytest.raises(jsonschema.ValidationError):
                check(schema, document)
            del mapping["misspelt"]
        check(schema, document)


@pytest.mark.parametrize("to", ["docker", "kubernetes"])
def test_the_server_can_read_its_files(here, to):
    """Also for a pinned version, and for a name that must be quoted everywhere."""
    make_export(ODD, versions=(7,))
    for export, pinned in ((f"saved_models/{ODD}", []), (f"saved_models/{ODD}/7", [7])):
        files = deployed(to, export, name="odd", cpus=3, overwrite=True)
        texts = {Path(name).name: text for name, text in files.items()}
        if to == "kubernetes":
            texts = by_kind(texts["deployment.yaml"])["ConfigMap"]["data"]
        (config,) = text_format.Parse(texts["models.config"], ModelServerConfig()).model_config_list.config
        assert (config.name, config.base_path, config.model_platform) == (ODD, "/models/export", "tensorflow")
        assert list(config.model_version_policy.specific.versions) == pinned
        batching = text_format.Parse(texts["batching.config"], message(BATCHING)())
        assert batching.num_batch_threads.value == 3
        assert batching.enable_large_batch_splitting.value
        assert batching.max_execution_batch_size.value <= batching.max_batch_size.value
        inner = re.fullmatch(r"prometheus_config \{\n(.*)\}\n", texts["monitoring.config"], re.DOTALL)[1]
        prometheus = text_format.Parse(inner, message(PROMETHEUS)())
        assert (prometheus.enable, prometheus.path) == (True, "/monitoring/prometheus/metrics")


def test_odd_names_are_quoted_where_they_stand(here):
    make_export(ODD)
    compose = yaml.safe_load(deployed("docker", ODD, name="odd")["compose.yaml"])
    source = compose["services"]["serving"]["volumes"][0]["source"]
    assert "$" not in source.replace("$$", "")
    folder = here / "deploy" / ODD / "docker"
    assert (folder / source.replace("$$", "$")).resolve() == here / "saved_models" / ODD
    (container,) = by_kind(deployed("kubernetes", ODD, name="odd")["deployment.yaml"])["Deployment"]["spec"][
        "template"
    ]["spec"]["containers"]
    path = container["readinessProbe"]["httpGet"]["path"]
    # the paths that TensorFlow Serving takes, whose %XX it decodes (http_rest_api_util.cc)
    found = re.fullmatch(r"/v1/models(?:/([^/:]+))?(?:/versions/(\d+))?(?:/(metadata))?", path)
    assert (unquote(found[1]), found[3]) == (ODD, "metadata")
    assert container["volumeMounts"][1]["subPath"] == ODD


class Server(BaseHTTPRequestHandler):
    """A server that has the models `known`."""

    known = ()

    def do_GET(self):
        self.send_response(
            200 if self.path in [f"/v1/models/{quote(name, safe='')}/metadata" for name in self.known] else 404
        )
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments):
        pass


@pytest.mark.parametrize("name", ["flowers", "a b%$'\""])
def test_the_health_check_asks_the_server(here, name):
    """It is the command that bash gets; Docker Compose makes one $ of two."""
    if name != "flowers":
        make_export(name)
    compose = yaml.safe_load(deployed("docker", name, name="any")["compose.yaml"])
    command = [word.replace("$$", "$") for word in compose["services"]["serving"]["healthcheck"]["test"][1:]]
    with HTTPServer(("127.0.0.1", 0), type("Ready", (Server,), {"known": (name,)})) as ready:
        threading.Thread(target=ready.serve_forever, daemon=True).start()
        with HTTPServer(("127.0.0.1", 0), Server) as loading:
            threading.Thread(target=loading.serve_forever, daemon=True).start()
            ports = (ready.server_address[1], loading.server_address[1], *free_ports(1))
            codes = [
                subprocess.run(
                    [word.replace("/8501", f"/{port}") for word in command], capture_output=True, timeout=20
                ).returncode
                for port in ports
            ]
            loading.shutdown()
        ready.shutdown()
    assert codes == [0, 1, 1]


@each_target
def test_the_request_of_the_readme_is_what_the_server_takes(here, to):
    text = deployed(to)["README.md"]
    command = re.search(r"\(printf.*?:predict", text, re.DOTALL)[0]
    assert command.endswith("/v1/models/flowers:predict")
    image = bytes(range(256)) * 2000  # longer than an argument may be
    (here / "rose.jpg").write_bytes(image)
    command = re.sub(r"curl .*", "cat", command)
    sent = subprocess.run(["bash", "-c", command], capture_output=True, check=True, timeout=20).stdout
    ((instance,),) = (value for key, value in json.loads(sent).items() if key == "instances")
    assert base64.b64decode(instance["b64"], validate=True) == image


def test_a_name_or_a_path_names_an_export_and_a_version_pins_it(here):
    texts = [
        deployed("docker", export, folder=here / "out", overwrite=True)["config/models.config"]
        for export in (
            "flowers",
            "saved_models/flowers",
            here / "saved_models/flowers",
            kerazoo.open_export("saved_models/flowers"),
        )
    ]
    assert len(set(texts[:3])) == 1
    assert "versions" not in texts[0]
    assert "versions: 2 " in texts[3]
    for export in ("flowers/1", "saved_models/flowers/1"):
        assert "versions: 1 " in deployed("docker", export, folder="out", overwrite=True)["config/models.config"]


@pytest.mark.parametrize(("mebibytes", "limit"), [(1, 1280), (64, 1536), (100, 1536)])
def test_the_memory_limit_follows_from_the_weights(here, mebibytes, limit):
    """1024 + 4 x weights, rounded up to 256 MiB."""
    make_export("large", versions=(1,), mebibytes=mebibytes)
    compose = yaml.safe_load(deployed("docker", "large")["compose.yaml"])
    assert compose["services"]["serving"]["mem_limit"] == f"{limit}m"


def test_a_name_becomes_one_that_kubernetes_allows(here):
    make_export("ResNet_20.cifar 10")
    found = by_kind(deployed("kubernetes", "ResNet_20.cifar 10")["deployment.yaml"])
    assert found["Deployment"]["metadata"]["name"] == "resnet-20-cifar-10"
    assert 'name: "ResNet_20.cifar 10"' in found["ConfigMap"]["data"]["models.config"]
    for name in ("2024", "rosé", "x" * 51):
        make_export(name)
        with pytest.raises(InputError, match=r"cannot be used in Kubernetes; choose one with --name"):
            kerazoo.deploy(name, to="kubernetes")
        assert deployed("kubernetes", name, name="any")


@pytest.mark.parametrize(
    ("export", "words", "message"),
    [
        ("flowers", {"to": "heroku"}, r"to='heroku' must be one of docker, kubernetes, kserve$"),
        ("tulips", {"to": "docker"}, r"there is no export tulips; give a folder"),
        ("flowers/3", {"to": "docker"}, r"there is no export flowers/3; give a folder"),
        ("flowers", {"to": "docker", "memory": "2g"}, r"memory='2g' must be a whole number of Mi or Gi, such as"),
        ("flowers", {"to": "docker", "memory": "0Gi"}, r"memory='0Gi' must be"),
        ("flowers", {"to": "docker", "cpus": 0}, r"cpus=0 must be a whole number of at least 1"),
        ("flowers", {"to": "docker", "cpus": 1.5}, r"cpus=1.5 must be a whole number"),
        ("flowers", {"to": "docker", "name": "Flowers"}, r"name='Flowers' must be at most 50 lower-case letters"),
        ("flowers", {"to": "docker", "claim": "c"}, r"claim applies only to kubernetes, not docker; remove it"),
        ("flowers", {"to": "kubernetes", "storage_uri": URI}, r"storage_uri applies only to kserve, not kubernetes"),
        ("flowers", {"to": "kubernetes", "claim": "My claim"}, r"claim='My claim' must be the name of a Persistent"),
        ("flowers", {"to": "kserve"}, r"KServe must know where the export is; give a storage URI .*\(--storage-uri"),
        ("flowers", {"to": "kserve", "storage_uri": "models"}, r"storage_uri='models' must be a URI such as s3://"),
        ("flowers", {"to": "kserve", "storage_uri": "s3://a b"}, r"storage_uri='s3://a b' must be"),
        ("flowers/1", {"to": "kserve", "storage_uri": URI}, r"KServe serves the newest .* put only version 1 there"),
        ("flowers", {"to": "docker", "folder": "saved_models/flowers/1/saved_model.pb"}, r"must be a folder, but"),
    ],
)  # fmt: skip
def test_wrong_words_are_refused_in_one_line_and_write_nothing(here, export, words, message):
    with pytest.raises((InputError, RunError), match=message) as caught:
        kerazoo.deploy(export, **words)
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in here.iterdir()) == ["saved_models"]


def test_exports_that_cannot_be_served_are_refused(here):
    (here / "saved_models/flowers/2/assets.extra/passport.json").unlink()
    with pytest.raises(RunError, match=r"is a SavedModel without assets.extra/passport.json"):
        kerazoo.deploy("flowers", to="docker")
    (here / "saved_models/flowers/2/assets.extra/passport.json").write_text("{")
    with pytest.raises(RunError, match=r"passport.json cannot be read"):
        kerazoo.deploy("flowers", to="docker")
    (here / "saved_models/flowers/1").rename(here / "alone")
    with pytest.raises(RunError, match=r"alone must have a version number as its name"):
        kerazoo.deploy("alone", to="docker")
    make_export("a\nb")
    with pytest.raises(InputError, match=r"'a\\nb' must be printable; rename its folder"):
        kerazoo.deploy("a\nb", to="docker", name="ab")


@each_target
def test_files_are_not_overwritten_unless_asked(here, to):
    deployed(to)
    with pytest.raises(InputError, match=r"README.md exists; choose another folder .*--overwrite|yaml exists; choose"):
        deployed(to)
    changed = deployed(to, memory="3Gi", overwrite=True)
    assert any("3072" in text for text in changed.values())
    folder = here / "deploy" / "flowers" / to
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"notes.txt is not one of the files that would be written"):
        deployed(to, overwrite=True)
    assert (folder / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("fault", ["write", "rename"])
def test_all_files_appear_or_none(here, monkeypatch, before, fault):
    """A full disk at the third file, or a failure to rename the folder, leaves what was there."""
    if before:
        deployed("docker")
    was = {path: path.read_bytes() for path in sorted(here.rglob("*")) if path.is_file()}
    if fault == "write":
        calls = []

        def full(path, text):
            calls.append(path)
            if len(calls) == 3:
                raise OSError(28, "No space left on device", str(path))
            path.write_text(text)

        monkeypatch.setattr(writing, "write_whole", full)
    else:
        rename = Path.rename

        def refused(self, target):
            if self.name.endswith("new"):
                raise OSError(5, "Input/output error", str(self))
            return rename(self, target)

        monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(OSError, match=r"No space left|Input/output"):
        deployed("docker", memory="3Gi", overwrite=True)
    assert {path: path.read_bytes() for path in sorted(here.rglob("*")) if path.is_file()} == was


def test_the_command_and_the_call_write_the_same(here, monkeypatch, capsys):
    for options, code in (([], 0), (["--json"], 2), (["--json", "--overwrite"], 0)):
        monkeypatch.setattr(sys, "argv", ["kerazoo", "deploy", "saved_models/flowers", "--to", "docker", *options])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert (stop.value.code or 0) == code
        printed = capsys.readouterr()
        if code:
            assert not printed.out
            assert re.fullmatch(r"kerazoo: deploy/flowers/docker/README.md exists; choose .*\n", printed.err)
        elif not options:
            *names, last = printed.out.splitlines()
            assert last == "next: see deploy/flowers/docker/README.md"
    found = json.loads(printed.out)
    assert found == {"export": "saved_models/flowers", "to": "docker", "files": names}
    called = kerazoo.deploy("flowers", to="docker", folder="deploy/flowers/call")
    assert [Path(name).read_text() for name in names] == [path.read_text() for path in called]


def test_it_needs_no_tensorflow(here):
    script = (
        "import sys\nsys.modules |= dict.fromkeys(('tensorflow', 'keras', 'yaml'))\nfrom kerazoo.cli.app import main\n"
        "sys.argv = ['kerazoo', 'deploy', 'flowers', '--to', 'docker']\nmain()"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (said.returncode, said.stderr) == (0, "")
    assert (here / "deploy/flowers/docker/compose.yaml").is_file()
