"""Files for Docker Compose: one TensorFlow Serving container without rights."""

import os
from pathlib import Path

from kerazoo.errors import InputError
from kerazoo.serving.deploy.deployment import GRPC_PORT, IMAGE, REST_PORT, SERVER, USER, Deployment, quoted
from kerazoo.serving.deploy.readme import ask, page
from kerazoo.serving.deploy.server_files import CONFIG, EXPORT, FLAGS, METRICS, server_files


def docker_files(deployment: Deployment, folder: Path) -> dict[str, str]:
    """The files by their names in `folder`. Raises InputError if the export's path cannot be written in YAML."""
    configs = {f"config/{name}": text for name, text in server_files(deployment).items()}
    return {"compose.yaml": _compose(deployment, folder), **configs, "README.md": _readme(deployment)}


def _compose(deployment: Deployment, folder: Path) -> str:
    flags = "".join(f"\n      - {quoted(flag)}" for flag in FLAGS)
    cpus = "" if deployment.cpus is None else f"    cpus: {deployment.cpus}\n"
    return f"""\
# Written by `kerazoo deploy`; README.md has the commands.
name: {quoted(deployment.name)}
services:
  serving:
    image: {quoted(IMAGE)}
    # the server itself: the script of the image does not pass on the signal to stop
    entrypoint: [{quoted(SERVER)}]
    command:{flags}
    init: true  # passes on the signal to stop, and removes ended health checks
    user: "{USER}:{USER}"
    read_only: true
    cap_drop: ["ALL"]
    security_opt: ["no-new-privileges:true"]
    tmpfs: ["/tmp"]
    mem_limit: "{deployment.memory}m"
    memswap_limit: "{deployment.memory}m"  # no swap
{cpus}\
    ports:  # only for this machine, because the server does not check who asks
      - "127.0.0.1:{GRPC_PORT}:{GRPC_PORT}"
      - "127.0.0.1:{REST_PORT}:{REST_PORT}"
    volumes:
      - type: bind
        source: {_escaped(_source(deployment.export, folder))}
        target: {quoted(EXPORT)}
        read_only: true
        bind:
          create_host_path: false
      - type: bind
        source: ./config
        target: {quoted(CONFIG)}
        read_only: true
        bind:
          create_host_path: false
    healthcheck:
      test: ["CMD", "bash", "-c", {_escaped(_check(deployment))}]
      interval: 10s
      timeout: 5s
      retries: 3
      start_period: 300s
    restart: unless-stopped
    stop_grace_period: 10s
"""


def _check(deployment: Deployment) -> str:
    """A bash command that succeeds if the server is ready. The image has bash, but not curl."""
    lines = f'"GET {deployment.ready} HTTP/1.1" "Host: localhost" "Connection: close" ""'
    return (
        f"exec 3<>/dev/tcp/127.0.0.1/{REST_PORT}; printf '%s\\r\\n' {lines} >&3; "
        "read -r answer <&3; [[ $answer = *' 200 '* ]]"
    )


def _source(export: Path, folder: Path) -> str:
    """The path of `export` in compose.yaml: relative to `folder`, so that both can be moved together."""
    try:
        path = Path(os.path.relpath(export, folder.resolve())).as_posix()
    except ValueError:  # another drive of Windows
        path = export.as_posix()
    if not path.isprintable():
        raise InputError(f"{path!r} must be printable to be written in compose.yaml; rename the folder")
    return path


def _escaped(text: str) -> str:
    """`text` as a string of Docker Compose, in which a single $ would begin a variable."""
    return quoted(text.replace("$", "$$"))


def _readme(deployment: Deployment) -> str:
    url = f"http://127.0.0.1:{REST_PORT}"
    return page(f"""\
Start, and wait until it answers:

```sh
docker compose up -d --wait
```

Ask about an image:

```sh
{ask(url + deployment.address)}
```

Stop:

```sh
docker compose down
```

- The server runs as user {USER} and must be able to read the export and `config`.
- If a port is in use, change it below `ports`. The number in the middle is the port of this machine.
- The memory limit is {deployment.memory} MiB. The default is 1024 MiB and four times the weights. It is a rule of
  thumb: look at `docker stats`, and change it with `--memory`.
- Metrics for Prometheus: `curl {url}{METRICS}`
""")
