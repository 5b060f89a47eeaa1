"""Every setting of kproxy, declared once: `settings.py` reads them, `--help` and the tables show them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from kproxy.config.kinds import (
    FILE,
    FOLDER,
    FOLDERS,
    NAME,
    PREFIX,
    SWITCH,
    TEXT,
    Choice,
    Duration,
    Items,
    Kind,
    Names,
    Number,
    Option,
    OptionalFile,
    Patterns,
    option,
    options_of,
)
from kproxy.config.listeners import (
    ADDRESS,
    DEFAULT_ADDRESS,
    DEFAULT_PORT,
    LISTENERS,
    MODE,
    OWNER,
    PORT,
    ListenerConfig,
    completed,
)
from kproxy.kube.kubeconfig import Overrides
from kproxy.policy.expressions import compile_go
from kproxy.policy.policy import (
    DEFAULT_ACCEPT_HOSTS,
    DEFAULT_ACCEPT_ORIGINS,
    DEFAULT_ACCEPT_PATHS,
    DEFAULT_REJECT_METHODS,
    DEFAULT_REJECT_PATHS,
)

LISTEN = "Listening"
SERVE = "What is served"
GUARD = "What is let through"
CLUSTER = "The API server, as in kubectl (default: what the kubeconfig says)"
CREDENTIALS = "Credentials"
RUNNING = "Logs and settings"

_PATTERNS = Patterns(compile_go)
_PERIOD = Duration(0.0, "a duration of zero or more, such as 30s or 1m30s")
_SPAN = Duration(0.001, "a duration above zero, such as 30s or 1m30s")


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """The settings in force. Empty text never occurs: what is not given is None."""

    port: int = option(DEFAULT_PORT, "Port to listen on; 0 picks a free one.", LISTEN, PORT, short="p")
    address: str = option(
        DEFAULT_ADDRESS, "IP address or host name to listen on. Whoever can reach it acts with your "
        "credentials; one that other machines can reach needs --unsafe-listen.", LISTEN, ADDRESS,
    )  # fmt: skip
    unix_socket: str | None = option(
        None, "Unix socket to listen on instead of a port.", LISTEN, FILE, short="u"
    )
    unix_socket_mode: int | None = option(
        None, "Permissions of unix sockets, such as 0660; otherwise 0700. Whoever may write to one acts with "
        "your credentials.", LISTEN, MODE,
    )  # fmt: skip
    unix_socket_owner: str | None = option(
        None, "User and group that unix sockets are given to; only root can give to another user.", LISTEN,
        OWNER,
    )  # fmt: skip
    listeners: tuple[ListenerConfig, ...] = option(
        (), "Where else to listen: ADDRESS:PORT, [IPv6]:PORT, unix:PATH or fd:N for a passed socket; may be "
        "given several times. Alone it takes the place of --port, --address and --unix-socket.", LISTEN,
        LISTENERS, flag_name="listen",
    )  # fmt: skip
    tls_certificate: str | None = option(
        None, "Serve clients https with the certificate in this file, and the chain behind it. Taken up anew "
        "when it changes.", LISTEN, FILE,
    )  # fmt: skip
    tls_key: str | None = option(
        None, "File of the certificate's key; otherwise the key stands in the file of the certificate.",
        LISTEN, FILE,
    )  # fmt: skip
    tls_self_signed: bool = option(
        False, "Serve clients https with a certificate of your own, which is made once and kept in "
        "~/.local/state/kproxy/tls.", LISTEN, SWITCH,
    )  # fmt: skip
    unsafe_listen: bool = option(
        False, "Listen where other machines can reach kproxy, although it cannot tell its callers apart.",
        LISTEN, SWITCH,
    )  # fmt: skip
    api_prefix: str = option(
        "/", "Path prefix of the Kubernetes API. One that starts with /api is kept, any other is taken off "
        "before the API server sees the path.", SERVE, PREFIX,
    )  # fmt: skip
    append_server_path: bool = option(
        True, "Put the path of the kubeconfig's server before every request, unless it is there already. "
        "kubectl proxy does so only when told.", SERVE, SWITCH,
    )  # fmt: skip
    contexts: tuple[str, ...] = option(
        (), "Contexts to serve, each at http://SLUG.localhost:PORT/ and below /clusters/NAME/. At / is the "
        "one of --context, else the current-context if it is listed, else the first of the list.",
        SERVE, Names("NAME,..."),
    )  # fmt: skip
    all_contexts: bool = option(
        False, "Serve every context of the kubeconfig, as --contexts does those it lists.", SERVE, SWITCH
    )
    context_idle_seconds: float = option(
        600.0, "How long a context other than the one at / may be unused before its connections are closed "
        "and its credential is forgotten; 0 is for ever.", SERVE, _PERIOD, name="context_idle",
    )  # fmt: skip
    www: str | None = option(
        None, "Folder of static files to serve beside the API.", SERVE, FOLDER, short="w"
    )
    www_prefix: str = option("/static/", "Path prefix of the static files.", SERVE, PREFIX, short="P")
    www_follow_symlinks: bool = option(
        False, "Follow symbolic links that lead out of the folder of static files.", SERVE, SWITCH
    )
    accept_paths: tuple[str, ...] = option(
        DEFAULT_ACCEPT_PATHS, "Paths to let through; an empty list lets none through.", GUARD, _PATTERNS
    )
    reject_paths: tuple[str, ...] = option(
        DEFAULT_REJECT_PATHS, "Paths to refuse, even if --accept-paths has them.", GUARD, _PATTERNS
    )
    accept_hosts: tuple[str, ...] = option(
        DEFAULT_ACCEPT_HOSTS, "Host names (of the Host header) to answer to; an empty list answers none.",
        GUARD, _PATTERNS,
    )  # fmt: skip
    accept_origins: tuple[str, ...] = option(
        DEFAULT_ACCEPT_ORIGINS, "Origins of web pages that may use the proxy, besides its own. "
        "Matched against the whole origin, such as https://example.org:8443, and against its host.",
        GUARD, _PATTERNS,
    )  # fmt: skip
    reject_methods: tuple[str, ...] = option(
        DEFAULT_REJECT_METHODS, "HTTP methods to refuse, such as POST,PUT,PATCH,DELETE.", GUARD, _PATTERNS
    )
    admin: str = option(
        "loopback", "Where the endpoints below /-/ that tell of clusters are served: on loopback addresses "
        "and unix sockets, or on unix sockets only; off serves none, nor healthz and readyz.",
        GUARD, Choice("off", "loopback", "socket"),
    )  # fmt: skip
    disable_filter: bool = option(
        False, "Let every path, method and host through. Only pages of other web sites are still refused.",
        GUARD, SWITCH,
    )  # fmt: skip
    kubeconfig: str | None = option(
        None, "Kubeconfig file; otherwise $KUBECONFIG, then ~/.kube/config.", CLUSTER, FILE
    )
    context: str | None = option(None, "Context of the kubeconfig to use.", CLUSTER, NAME)
    cluster: str | None = option(None, "Cluster of the kubeconfig to use.", CLUSTER, NAME)
    user: str | None = option(None, "User of the kubeconfig to use.", CLUSTER, NAME)
    server: str | None = option(None, "URL of the API server.", CLUSTER, Kind("URL"), short="s")
    tls_server_name: str | None = option(
        None, "Name the API server's certificate must have, when it is not the host of its URL.", CLUSTER,
        NAME,
    )  # fmt: skip
    certificate_authority: str | None = option(
        None, "File of certificates that the API server is trusted by.", CLUSTER, FILE
    )
    insecure_skip_tls_verify: bool | None = option(
        None, "Trust any certificate of the API server. Whoever sits between can then take your credentials.",
        CLUSTER, SWITCH,
    )  # fmt: skip
    client_certificate: str | None = option(None, "File of the client certificate.", CLUSTER, FILE)
    client_key: str | None = option(None, "File of the client certificate's key.", CLUSTER, FILE)
    token: str | None = option(
        None, "Bearer token. On a command line other users can see it; the kubeconfig is a better place.",
        CLUSTER, TEXT, secret=True,
    )  # fmt: skip
    username: str | None = option(None, "User name for basic authentication.", CLUSTER, NAME)
    password: str | None = option(None, "Password for basic authentication.", CLUSTER, TEXT, secret=True)
    impersonate: str | None = option(None, "User to act as.", CLUSTER, NAME, name="as")
    impersonate_groups: tuple[str, ...] = option(
        (), "Group to act as; may be given several times.", CLUSTER, Items("GROUP", "a list of groups"),
        name="as_group",
    )  # fmt: skip
    impersonate_uid: str | None = option(None, "UID to act as.", CLUSTER, Kind("UID"), name="as_uid")
    impersonate_extra: tuple[str, ...] = option(
        (), "Extra field of the user to act as; may be given several times.", CLUSTER,
        Items("KEY=VALUE", "a list of key=value", separator="="), name="as_user_extra",
    )  # fmt: skip
    disable_compression: bool | None = option(
        None, "Do not ask the API server for compressed answers.", CLUSTER, SWITCH
    )
    request_timeout: str | None = option(
        None, "Checked as kubectl does; like kubectl proxy, kproxy sets no limit on a proxied request.",
        CLUSTER, TEXT,
    )  # fmt: skip
    namespace: str | None = option(
        None, "Namespace of the contexts that kproxy run gives its command; else a proxy has no use for it.",
        CLUSTER, NAME, short="n",
    )  # fmt: skip
    keepalive_seconds: float = option(
        0.0, "TCP keep-alive period of connections to the API server; 0 is kproxy's own choice of 30s.",
        CLUSTER, _PERIOD, name="keepalive",
    )  # fmt: skip
    http2: bool = option(
        True, "Offer HTTP/2 to the API server, which takes less CPU and one connection for many watches.",
        CLUSTER, SWITCH,
    )  # fmt: skip
    exec_timeout_seconds: float = option(
        60.0, "How long an exec credential plugin may run.", CREDENTIALS, _SPAN, name="exec_timeout"
    )
    exec_path: str | None = option(
        None, "Folders, with a colon between, to look for exec credential plugins in, after those of $PATH.",
        CREDENTIALS, FOLDERS,
    )  # fmt: skip
    kuberc: str | None = option(
        None, "File that says which exec credential plugins may run; otherwise $KUBERC, then ~/.kube/kuberc.",
        CREDENTIALS, FILE,
    )  # fmt: skip
    oidc_write_back: bool = option(
        True, "Write renewed OIDC tokens back to the kubeconfig, as kubectl does.", CREDENTIALS, SWITCH
    )
    reload: bool = option(
        True, "Notice changes of the config file, the kubeconfig, the files it names, and certificates.",
        CREDENTIALS, SWITCH,
    )  # fmt: skip
    rotate_close: bool = option(
        False, "Close open streams when the credential changes, not only idle connections.",
        CREDENTIALS, SWITCH,
    )  # fmt: skip
    log_format: str = option(
        "auto", "How log lines look on stderr; auto is console on a terminal, else json.", RUNNING,
        Choice("auto", "console", "json"),
    )  # fmt: skip
    verbosity: int = option(
        0, "How much is logged: -1 warnings, 0 requests too, 4 and more each step.", RUNNING, Number(-1, 99),
        name="v", short="v",
    )  # fmt: skip
    grace_period_seconds: float = option(
        10.0, "How long open requests may go on after SIGTERM or Ctrl-C.", RUNNING, _PERIOD,
        name="grace_period",
    )  # fmt: skip
    shutdown_delay_seconds: float = option(
        0.0, "How long to serve on after SIGTERM, with /-/readyz at 503: time for a load balancer to notice.",
        RUNNING, _PERIOD, name="shutdown_delay",
    )  # fmt: skip
    log_max_bytes: int = option(
        4_194_304, "How large the log of `kproxy start` may grow; one older file is kept beside it.",
        RUNNING, Number(4096, 2**40),
    )  # fmt: skip
    config: str | None = option(
        None, "Config file: the same settings in YAML, with underscores for dashes; off for none. Otherwise "
        "$KPROXY_CONFIG, then ~/.config/kproxy/config.yaml.", RUNNING, OptionalFile("FILE"),
        in_file=False,
    )  # fmt: skip

    def first_listener(self) -> ListenerConfig:
        """The one that --port, --address and --unix-socket make, as in kubectl."""
        return ListenerConfig(address=self.address, port=self.port, unix_socket=self.unix_socket)

    def listener_configs(self) -> tuple[ListenerConfig, ...]:
        """Every listener, with what it does not say itself taken from the settings for all."""
        return tuple(
            completed(
                each,
                certificate=self.tls_certificate,
                key=self.tls_key,
                self_signed=self.tls_self_signed,
                mode=self.unix_socket_mode,
                owner=self.unix_socket_owner,
            )
            for each in self.listeners or (self.first_listener(),)
        )

    @property
    def has_only_unix_sockets(self) -> bool:
        return all(each.unix_socket is not None for each in self.listener_configs())

    def overrides(self) -> Overrides:
        """What replaces fields of the kubeconfig."""
        return Overrides(**{each.name: getattr(self, each.name) for each in fields(Overrides)})


LIVE: Mapping[str, tuple[str, ...]] = {
    "filters": (
        "accept_paths", "reject_paths", "accept_hosts", "accept_origins", "reject_methods", "disable_filter",
    ),
    "contexts": (
        "kubeconfig", "context", "cluster", "user", "server", "tls_server_name", "certificate_authority",
        "insecure_skip_tls_verify", "client_certificate", "client_key", "token", "username", "password",
        "as", "as_group", "as_uid", "as_user_extra", "disable_compression", "request_timeout", "namespace",
        "contexts", "all_contexts", "context_idle",
    ),
    "connections": (
        "append_server_path", "keepalive", "http2", "exec_timeout", "exec_path", "kuberc", "oidc_write_back",
        "rotate_close",
    ),
    "log": ("log_format", "v"),
    "end": ("shutdown_delay", "grace_period"),
}  # fmt: skip
"""What `reloading.py` changes while kproxy runs, and the settings that it does so for.

They are the filters, the table of contexts, how their upstreams are opened, what is logged, and how long the
end may take. A setting that is not here needs a restart.
"""

OPTIONS: tuple[Option, ...] = options_of(Config, LIVE)
